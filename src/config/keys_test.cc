// The grammar, the table of keys, the documentation and the example are about the same keys.

#include "config/keys.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/file.h"
#include "base/text.h"
#include "config/config.h"
#include "spec/yaml.h"

namespace quad::config {
namespace {

using ::testing::HasSubstr;

const std::filesystem::path kSource = QUAD_SOURCE_DIR;

/// The patterns of all keys that hold a value, in order, each once.
void gather(const spec::Rule& rule, const std::string& pattern, std::vector<std::string>& all) {
  const auto below = [&](std::string_view name) {
    return pattern.empty() ? std::string(name) : fmt::format("{}.{}", pattern, name);
  };
  const auto one = [&](const spec::Rule& member, const std::string& path) {
    if (is_group(member)) {
      gather(member, path, all);
    } else if (std::find(all.begin(), all.end(), canonical(path)) == all.end()) {
      all.push_back(canonical(path));
    }
  };
  for (const spec::Field& field : rule.fields) {
    one(*field.rule, below(field.name));
  }
  if (rule.item) {
    one(*rule.item, below("NAME"));
  }
}

/// A file in which the key "a.b.c" has the value.
std::string file_with(std::string_view pattern, std::string_view value) {
  std::string text;
  std::string indent;
  for (const std::string_view word : split(pattern, '.')) {
    text += fmt::format("{}{}{}:", text.empty() ? "" : "\n", indent, word);
    indent += "  ";
  }
  return fmt::format("{} {}\n", text, value);
}

TEST(Keys, AreThoseOfTheGrammar) {
  std::vector<std::string> grammar;
  gather(config_rule(), "", grammar);
  std::vector<std::string> table;
  for (const Key& key : keys()) {
    table.emplace_back(key.pattern);
  }
  EXPECT_GT(table.size(), 55U);
  EXPECT_EQ(std::set<std::string>(grammar.begin(), grammar.end()),
            std::set<std::string>(table.begin(), table.end()));
}

TEST(Keys, HaveADefaultOrSayWhatHappensWithoutAndAnExampleThatTheGrammarAccepts) {
  for (const Key& key : keys()) {
    EXPECT_FALSE(key.meaning.empty()) << key.pattern;
    for (const std::string_view value : {key.fallback, key.example}) {
      if (value.empty()) {
        EXPECT_NE(value, key.example) << key.pattern << " has no example";
        continue;
      }
      const auto stream = spec::read_yaml(file_with(key.pattern, value));
      ASSERT_FALSE(stream.error.has_value()) << key.pattern << ": " << value;
      spec::Issues issues;
      EXPECT_TRUE(spec::check(stream.documents.at(0), config_rule(), "", issues))
          << key.pattern << ": " << value << ": " << issues.errors().at(0).message;
    }
  }
}

TEST(Keys, WhateverStandsThereAFaultSaysWhere) {
  for (const Key& key : keys()) {
    for (const char* value :
         {"true", "-5", "1e400", "99999999999999999999", ".nan", ".inf", "''", "x y", "[1, [2]]",
          "{a: {b: 1}}", "2024-01-02", "!!binary aGk=", "[]", "{}", "~"}) {
      for (const std::string& pattern :
           {std::string(key.pattern), std::string(key.pattern) + ".x",
            std::string(key.pattern.substr(0, key.pattern.rfind('.')))}) {
        const Loaded loaded = read_config(file_with(pattern, value));
        for (const spec::Diagnostic& one : loaded.errors) {
          EXPECT_FALSE(one.key.empty()) << pattern << ": " << value;
          EXPECT_GT(one.line, 0) << pattern << ": " << value << ": " << one.message;
        }
      }
    }
  }
}

TEST(Keys, TheDocumentationHasTheTable) {
  const std::string page = read_file(kSource / "docs" / "configuration.md").value();
  const std::string table = markdown_table();
  for (const std::string_view line : split(table, '\n')) {
    EXPECT_THAT(page, HasSubstr(std::string(line)))
        << "docs/configuration.md lacks this line; `quad config schema --table` prints them all";
  }
}

TEST(Keys, TheExampleIsGood) {
  const auto text = read_file(kSource / "examples" / "server" / "config.yaml");
  ASSERT_TRUE(text.ok());
  const Loaded loaded = read_config(*text);
  for (const spec::Diagnostic& one : loaded.errors) {
    ADD_FAILURE() << one.line << ": " << one.message;
  }
  ASSERT_EQ(loaded.config.kubernetes.size(), 2U);
  EXPECT_EQ(loaded.config.kubernetes[0].hot_tier.nfs_server, "nfs.example.edu");
  EXPECT_EQ(loaded.config.kubernetes[1].hot_tier.pvc, "quad-home");
  EXPECT_EQ(loaded.config.kubernetes[1].in_namespace, "quad");
}

TEST(Keys, TheDocumentationsOwnExamplesAreGood) {
  const std::string page = read_file(kSource / "docs" / "configuration.md").value();
  std::size_t count = 0;
  for (std::size_t at = page.find("```yaml\n"); at != std::string::npos;
       at = page.find("```yaml\n", at + 8)) {
    const std::size_t end = page.find("```", at + 8);
    ASSERT_NE(end, std::string::npos);
    const Loaded loaded = read_config(std::string_view(page).substr(at + 8, end - at - 8));
    for (const spec::Diagnostic& one : loaded.errors) {
      ADD_FAILURE() << one.line << ": " << one.message;
    }
    ++count;
  }
  EXPECT_GT(count, 0U);
}

TEST(Schema, DescribesEveryKey) {
  const json::object all = schema();
  const auto& port = all.at("properties").at("port").as_object();
  EXPECT_EQ(port.at("type"), "integer");
  EXPECT_EQ(port.at("maximum"), 65'535);
  EXPECT_FALSE(get_string(port, "description").empty());
  EXPECT_EQ(all.at("properties").at("node_lost_after").at("default"), "20s");
  EXPECT_EQ(all.at("additionalProperties"), false);
  const auto& engine = all.at("properties").at("engines").at("additionalProperties").as_object();
  EXPECT_EQ(engine.at("properties").at("out_of_service_taint").at("type"), "boolean");
  EXPECT_FALSE(
      get_string(all.at("properties").at("kubernetes").at("properties").at("image").as_object(),
                 "description")
          .empty());
}

}  // namespace
}  // namespace quad::config
