// config/keys.h
//
// What may stand in the configuration: the grammar (spec/grammar.h), and beside it each key's
// default and meaning, once, for the reader, the schema and the documentation. Built on first use,
// never changed. Any thread.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "spec/grammar.h"

namespace quad::config {

/// The whole file.
const spec::Rule& config_rule();

struct Key {
  std::string_view pattern;   ///< "tls.certificate", "engines.NAME.write_rate"
  std::string_view fallback;  ///< the default, as YAML; empty: none
  std::string_view unset;     ///< where there is no default: what happens then, in a few words
  std::string_view example;   ///< a value, as YAML
  std::string_view meaning;
};

/// In the order of the grammar: every key that holds a value, none that only groups others.
const std::vector<Key>& keys();
const Key* find_key(std::string_view pattern);

/// The name that the key has in keys(): "kubernetes.x" and "kubernetes.context_configs.NAME.x" are
/// "engines.NAME.x" where an engine has such a key.
std::string canonical(std::string_view pattern);

/// Whether a rule only groups other keys.
bool is_group(const spec::Rule& rule);

/// JSON Schema (draft 7) of the file, for editors.
json::object schema();
/// The table of docs/configuration.md: a line for each key.
std::string markdown_table();

}  // namespace quad::config
