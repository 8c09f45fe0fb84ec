#include "spec/yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "spec/node.h"

namespace quad::spec {
namespace {

using ::testing::HasSubstr;

Node value_of(std::string_view scalar) {
  const YamlStream stream = read_yaml("a: " + std::string(scalar) + "\n");
  EXPECT_FALSE(stream.error) << scalar << ": " << (stream.error ? stream.error->message : "");
  if (stream.documents.empty() || stream.documents[0].find("a") == nullptr) {
    return {};
  }
  return *stream.documents[0].find("a");
}

std::string fault_of(std::string_view text) {
  const YamlStream stream = read_yaml(text);
  return stream.error ? stream.error->message : "no error";
}

TEST(Yaml, ReadsIntegersOfYaml11) {
  for (const auto& [text, digits] : {std::pair{"010", "8"},
                                     {"0x1F", "31"},
                                     {"0b11", "3"},
                                     {"1_000", "1000"},
                                     {"1:30", "90"},
                                     {"190:20:30", "685230"},
                                     {"-0", "0"},
                                     {"+12", "12"},
                                     {"0_", "0"},
                                     {"0xFFFFFFFFFFFFFFFFFFFF", "1208925819614629174706175"},
                                     {"99999999999999999999", "99999999999999999999"}}) {
    const Node node = value_of(text);
    EXPECT_EQ(node.kind, Node::Kind::kInt) << text;
    EXPECT_EQ(node.text, digits) << text;
  }
}

TEST(Yaml, ReadsFloatsOfYaml11) {
  for (const auto& [text, shown] : {std::pair{"1.5", "1.5"},
                                    {".5", "0.5"},
                                    {"1.0e+3", "1000.0"},
                                    {"1:30.5", "90.5"},
                                    {"-.INF", "-inf"},
                                    {".NaN", "nan"},
                                    {"1.0e+16", "1e+16"},
                                    {"0.00001", "1e-05"},
                                    {"123456789.123456789", "123456789.12345679"}}) {
    const Node node = value_of(text);
    EXPECT_EQ(node.kind, Node::Kind::kFloat) << text;
    EXPECT_EQ(python_str(node), shown) << text;
  }
}

TEST(Yaml, LeavesTextThatOnlyLooksLikeANumber) {
  for (const char* text : {"1e3", "08", "0o7", "1.5e10", "y", "n", "-.5", "1.2.3", "'5'", "\"010\"",
                           "2024-1-1 1:1:1 -5x"}) {
    EXPECT_EQ(value_of(text).kind, Node::Kind::kString) << text;
  }
}

TEST(Yaml, ReadsYesAndOffAsBooleans) {
  for (const char* text : {"yes", "Yes", "ON", "true", "TRUE"}) {
    EXPECT_TRUE(value_of(text).is_bool() && value_of(text).boolean) << text;
  }
  for (const char* text : {"no", "off", "False"}) {
    EXPECT_TRUE(value_of(text).is_bool() && !value_of(text).boolean) << text;
  }
  EXPECT_TRUE(value_of("~").is_null());
  EXPECT_TRUE(value_of("").is_null());
}

TEST(Yaml, ReadsDatesAsPythonShowsThem) {
  EXPECT_EQ(value_of("2024-01-02").text, "2024-01-02");
  EXPECT_EQ(value_of("2024-01-02T10:11:12.5Z").text, "2024-01-02 10:11:12.500000+00:00");
  EXPECT_EQ(value_of("2024-1-2 1:02:03 +02:30").text, "2024-01-02 01:02:03+02:30");
  EXPECT_THAT(fault_of("a: 2024-13-01\n"), HasSubstr("not a value of its YAML type"));
}

TEST(Yaml, AppliesTagsOfTheSafeLoader) {
  EXPECT_EQ(value_of("!!str 5").kind, Node::Kind::kString);
  EXPECT_EQ(value_of("!!int \"5\"").text, "5");
  EXPECT_EQ(value_of("!!binary aGVsbG8=").text, "b'hello'");
  EXPECT_EQ(value_of("!!set {a}").text, "{'a'}");
  EXPECT_THAT(fault_of("a: !foo x\n"), HasSubstr("tag"));
  EXPECT_THAT(fault_of("a: !!python/tuple [1]\n"), HasSubstr("tag"));
}

TEST(Yaml, MergesMappingsWithTheFirstOfAListWinning) {
  const YamlStream stream = read_yaml("a: &a {x: 1, y: 2}\nb: {<<: [*a, {x: 5, z: 6}], y: 3}\n");
  ASSERT_FALSE(stream.error);
  EXPECT_EQ(python_repr(*stream.documents[0].find("b")), "{'x': 1, 'z': 6, 'y': 3}");
}

TEST(Yaml, RefusesWhatTheSafeLoaderRefuses) {
  EXPECT_THAT(fault_of("a: *x\n"), HasSubstr("no anchor"));
  EXPECT_THAT(fault_of("a: &x [*x]\n"), HasSubstr("inside its own anchor"));
  EXPECT_THAT(fault_of("a: &x 1\nb: &x 2\n"), HasSubstr("twice"));
  EXPECT_THAT(fault_of("? [a]\n: b\n"), HasSubstr("plain word"));
  EXPECT_THAT(fault_of("? !!set {a}\n: b\n"), HasSubstr("plain word"));
  EXPECT_THAT(fault_of("a: &x [b]\n*x : c\n"), HasSubstr("plain word"));
  EXPECT_THAT(fault_of("a: =\n"), HasSubstr("quote it"));
  EXPECT_THAT(fault_of("a: <<\n"), HasSubstr("merge key"));
  EXPECT_THAT(fault_of("<<: 5\n"), HasSubstr("takes a mapping"));
}

TEST(Yaml, RefusesAKeyGivenTwiceAndNamesBothLines) {
  const YamlStream stream = read_yaml("run: a\nenvs:\n  A: 1\n  \"A\": 2\n");
  ASSERT_TRUE(stream.error);
  EXPECT_THAT(stream.error->message, HasSubstr("lines 3 and 4"));
  EXPECT_EQ(stream.error->line, 4);
  EXPECT_EQ(stream.error->column, 3);
}

TEST(Yaml, TakesOneAndTrueForTheSameKeyAsPythonDoes) {
  const YamlStream stream = read_yaml("a: {1: x, 1.0: y, true: z, .NaN: n, .inf: i}\n");
  ASSERT_FALSE(stream.error);
  EXPECT_EQ(python_repr(*stream.documents[0].find("a")), "{1: 'z', nan: 'n', inf: 'i'}");
}

TEST(Yaml, PlacesEveryValue) {
  const YamlStream stream = read_yaml("a: 1\nb:\n  - x\n  - {c: 2}\n");
  ASSERT_FALSE(stream.error);
  const Node& item = stream.documents[0].find("b")->items[1];
  EXPECT_EQ(item.mark.line, 4);
  EXPECT_EQ(item.mark.column, 5);
  EXPECT_EQ(item.find("c")->mark.column, 9);
}

TEST(Yaml, BoundsAbsurdInput) {
  EXPECT_THAT(fault_of(std::string(5U << 20U, 'x')), HasSubstr("bytes"));
  EXPECT_THAT(fault_of("a: " + std::string(10'000, '[')), HasSubstr("levels deep"));
  std::string blocks;
  for (int i = 0; i < 10'000; ++i) {
    blocks += "- ";
  }
  EXPECT_THAT(fault_of(blocks + "x"), HasSubstr("levels deep"));
  std::string laughs = "a: &a [x,x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'l'; ++c) {
    laughs += std::string(1, c) + ": &" + c + " [";
    for (int i = 0; i < 10; ++i) {
      laughs += std::string(i > 0 ? "," : "") + "*" + static_cast<char>(c - 1);
    }
    laughs += "]\n";
  }
  EXPECT_THAT(fault_of(laughs), HasSubstr("aliases"));
}

TEST(Yaml, RefusesBytesThatAreNoText) {
  EXPECT_THAT(fault_of(std::string_view("run: a\0b\n", 9)), HasSubstr("0x00"));
  EXPECT_THAT(fault_of("run: \xFF\n"), HasSubstr("not UTF-8"));
  EXPECT_THAT(fault_of(std::string_view("\xFF\xFEr\0u\0n\0", 8)), HasSubstr("not UTF-8"));
  EXPECT_EQ(fault_of("\xEF\xBB\xBFrun: x\n"), "no error");
}

TEST(Node, ShowsValuesAsPythonDoes) {
  EXPECT_EQ(python_str(value_of("[1, 2.5, true, null, \"x'y\", {b: 2024-01-01}]")),
            "[1, 2.5, True, None, \"x'y\", {'b': datetime.date(2024, 1, 1)}]");
}

}  // namespace
}  // namespace quad::spec
