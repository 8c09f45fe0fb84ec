#include "engine/kubernetes/views/quantity.h"

#include <gtest/gtest.h>

#include <limits>

namespace quad::kubernetes {
namespace {

struct Amount {
  std::string_view text;
  std::int64_t units;
  std::int64_t milli;
};

TEST(Quantity, IsReadInEveryWayThatKubernetesWritesIt) {
  const Amount amounts[] = {
      {"0", 0, 0},
      {"4", 4, 4'000},
      {"3950m", 4, 3'950},  // rounded up
      {"0.1", 1, 100},
      {"1.1", 2, 1'100},
      {"131072Ki", 134'217'728, 134'217'728'000},
      {"1.5Gi", 1'610'612'736, 1'610'612'736'000},
      {"16G", 16'000'000'000, 16'000'000'000'000},
      {"129M", 129'000'000, 129'000'000'000},
      {"128974848", 128'974'848, 128'974'848'000},
      {"129e6", 129'000'000, 129'000'000'000},
      {"1E3", 1'000, 1'000'000},
      {"5k", 5'000, 5'000'000},
      {"100u", 1, 1},
      {"+2", 2, 2'000},
  };
  for (const Amount& one : amounts) {
    EXPECT_EQ(quantity_units(one.text), one.units) << one.text;
    EXPECT_EQ(quantity_milli(one.text), one.milli) << one.text;
  }
}

TEST(Quantity, ThatIsNoneIsRefused) {
  for (const std::string_view text :
       {"", ".", "-1", "4 Gi", "Gi", "1Gb", "1e", "1e999", "4x", "1.2.3"}) {
    EXPECT_EQ(quantity_units(text), std::nullopt) << text;
  }
}

TEST(Quantity, ThatIsTooLargeIsTheLargest) {
  EXPECT_EQ(quantity_units("8Ei"), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(quantity_units("99999999999999999999999999E"),
            std::numeric_limits<std::int64_t>::max());
}

TEST(Quantity, OfAManifestMayBeANumber) {
  const json::object list{{"cpu", 2}, {"memory", "1Gi"}, {"half", 0.5}, {"odd", nullptr}};
  EXPECT_EQ(milli_of(list, "cpu"), 2'000);
  EXPECT_EQ(milli_of(list, "half"), 500);
  EXPECT_EQ(units_of(list, "memory"), 1LL << 30U);
  EXPECT_EQ(units_of(list, "odd"), 0);
  EXPECT_EQ(units_of(list, "absent"), 0);
}

TEST(Quantity, IsWrittenShortAndExact) {
  EXPECT_EQ(cpu_quantity(4'000), "4");
  EXPECT_EQ(cpu_quantity(3'500), "3500m");
  EXPECT_EQ(byte_quantity(16'000'000'000), "16G");
  EXPECT_EQ(byte_quantity(64LL << 30U), "64Gi");
  EXPECT_EQ(byte_quantity(512LL << 20U), "512Mi");
  EXPECT_EQ(byte_quantity(1'500'000'001), "1500000001");
  EXPECT_EQ(format_bytes(64LL << 30U), "64 GiB");
  EXPECT_EQ(format_bytes(1'610'612'736), "1.5 GiB");
  EXPECT_EQ(format_bytes(800LL << 20U), "800 MiB");
}

}  // namespace
}  // namespace quad::kubernetes
