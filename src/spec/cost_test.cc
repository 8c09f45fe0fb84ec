// No text costs more than its size times a constant: each kind of text is read at two sizes, and
// what the reading allocates is compared. Bytes that are allocated, unlike time, are the same on
// every machine.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>

#include "spec/parse.h"

namespace {
std::atomic<std::uint64_t> allocated = 0;  // bytes, by this whole program
}

// NOLINTBEGIN(cppcoreguidelines-no-malloc,hicpp-no-malloc): this is what memory comes from.
void* operator new(std::size_t size) {
  allocated.fetch_add(size, std::memory_order_relaxed);
  if (void* memory = std::malloc(size == 0 ? 1 : size)) {
    return memory;
  }
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t /*size*/) noexcept {
  std::free(memory);
}
// NOLINTEND(cppcoreguidelines-no-malloc,hicpp-no-malloc)

namespace quad::spec {
namespace {

using ::testing::HasSubstr;

struct Written {
  std::string yaml;
  Overrides overrides;
};

/// What it takes to read a text and to print what it means.
std::uint64_t cost_of(const Written& written) {
  const std::uint64_t before = allocated;
  const TaskSet set = parse(written.yaml, written.overrides);
  for (const Task& task : set.tasks) {
    (void)launch_errors(task);
  }
  (void)to_json(set, "", Redact::kYes);
  return allocated - before;
}

/// `make(n)` has n of what is counted.
void expect_linear(const std::function<Written(int)>& make, int small = 120) {
  const auto factor = 8;
  const std::uint64_t few = cost_of(make(small));
  const std::uint64_t many = cost_of(make(factor * small));
  // Twice the share leaves room for containers that grow by doubling; a square would be 8 times it.
  EXPECT_LT(many, 2 * factor * few)
      << few << " bytes for " << small << ", " << many << " for " << factor * small;
}

std::string repeated(int count, const std::function<std::string(int)>& one) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += one(i);
  }
  return text;
}

std::string first_error(const std::string& yaml, const Overrides& overrides = {}) {
  const TaskSet set = parse(yaml, overrides);
  return set.errors.empty() ? std::string() : set.errors[0].message;
}

TEST(Cost, OfASetOfAcceleratorsGrowsWithTheSet) {
  expect_linear([](int n) -> Written {
    return {"run: x\nresources:\n  accelerators: {" +
                repeated(n, [](int i) { return fmt::format("X{}: 1, ", i); }) + "}\n",
            {}};
  });
}

TEST(Cost, OfAListOfAcceleratorsGrowsWithTheList) {
  expect_linear([](int n) -> Written {
    return {"run: x\nresources:\n  accelerators: [" +
                repeated(n, [](int i) { return fmt::format("'X{}:2', ", i); }) + "]\n",
            {}};
  });
}

TEST(Cost, OfCandidatesGrowsWithTheirNumber) {
  for (const char* key : {"any_of", "ordered"}) {
    expect_linear([key](int n) -> Written {
      return {fmt::format("run: x\nresources:\n  {}:\n", key) +
                  repeated(n, [](int i) { return fmt::format("  - cpus: {}\n", i + 1); }),
              {}};
    });
  }
}

TEST(Cost, OfLabelsEnvsAndMountsGrowsWithTheirNumber) {
  expect_linear([](int n) -> Written {
    const auto lines = [n](const char* form) {
      return repeated(n, [form](int i) { return fmt::format(fmt::runtime(form), i); });
    };
    return {"run: x\nenvs:\n" + lines("  A{}: $B\n") + "file_mounts:\n" + lines("  /m{}: ./x\n") +
                "resources:\n  labels:\n" + lines("    a{}: x\n") + "  any_of:\n  - labels:\n" +
                lines("      b{}: x\n"),
            {}};
  });
}

TEST(Cost, OfEnvsFromTheCommandLineGrowsWithTheirNumber) {
  expect_linear([](int n) {
    Written written{"run: x\n", {}};
    for (int i = 0; i < n; ++i) {
      written.overrides.envs.emplace_back(fmt::format("A{}", i), "x");
    }
    return written;
  });
}

TEST(Cost, OfAliasesIsBoundedByTheTextThatHasThem) {
  // Ten aliases of ten aliases of … : a short text that would be 10,000 values.
  const std::string bomb =
      "a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
      "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
      "d: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n";
  EXPECT_THAT(first_error(bomb), HasSubstr("values once its aliases are written out"));
  // Using one thing some times over is what they are for.
  EXPECT_EQ(first_error("run: x\nresources:\n  any_of:\n  - &one {cpus: 2, memory: 4}\n" +
                        repeated(50, [](int) { return "  - *one\n"; })),
            "");
}

TEST(Cost, OfManyTagDirectivesIsRefused) {
  const std::string text =
      repeated(5000, [](int i) { return fmt::format("%TAG !a{}! x\n", i); }) + "---\nrun: x\n";
  EXPECT_THAT(first_error(text), HasSubstr("5000 lines that begin with %TAG"));
}

TEST(Cost, WhatAlternativesWouldRepeatIsBounded) {
  const std::string set = "resources:\n  accelerators: {" +
                          repeated(900, [](int i) { return fmt::format("X{}: 1, ", i); }) + "}\n";
  const std::string labels =
      "  labels:\n" + repeated(2000, [](int i) { return fmt::format("    l{}: x\n", i); });
  EXPECT_EQ(first_error("run: x\n" + set), "");
  EXPECT_THAT(first_error("run: x\n" + set + labels),
              HasSubstr("names 900, and each would repeat all else of resources"));
  const std::string config =
      "config:\n  kubernetes:\n    pod_config:\n      metadata:\n        annotations:\n" +
      repeated(2000, [](int i) { return fmt::format("          l{}: x\n", i); });
  EXPECT_EQ(first_error("run: x\n" + config), "");
  EXPECT_THAT(first_error("run: x\n" + set + config),
              HasSubstr("900 alternatives, and each would repeat config and volumes"));
}

TEST(Cost, OptionsForEachOfManyTasksAreBounded) {
  Overrides overrides;
  for (int i = 0; i < 2000; ++i) {
    overrides.envs.emplace_back(fmt::format("A{}", i), "x");
  }
  const std::string tasks = repeated(100, [](int) { return "---\nrun: x\n"; });
  EXPECT_THAT(first_error(tasks, overrides), HasSubstr("for each of 100 tasks"));
  EXPECT_EQ(first_error("run: x\n", overrides), "");
  Overrides options;
  options.config.assign(1001, {"kubernetes.provision_timeout", "1"});
  EXPECT_THAT(first_error("run: x\n", options), HasSubstr("--config is given 1001 times"));
}

TEST(Cost, SecretsAreHiddenFromLeftToRightTheLongestFirst) {
  const Written written{
      "run: x\nfile_mounts:\n  /a: ./$A/$B/$AB/end\nsecrets: {A: ab, B: b, AB: abab}\n", {}};
  const TaskSet set = parse(written.yaml, written.overrides);
  ASSERT_TRUE(set.ok());
  const json::object shown = to_json(set.tasks[0], Redact::kYes);
  EXPECT_EQ(to_text(shown.at("file_mounts")), R"({"/a":"./<redacted>/<redacted>/<redacted>/end"})");
}

}  // namespace
}  // namespace quad::spec
