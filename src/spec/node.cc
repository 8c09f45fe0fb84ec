#include "spec/node.h"

#include <algorithm>
#include <string>
#include <unordered_map>

#include "spec/number.h"

namespace quad::spec {

Node Node::null_at(Mark mark) {
  Node node;
  node.mark = mark;
  return node;
}

Node Node::make_bool(bool value, Mark mark) {
  Node node;
  node.kind = Kind::kBool;
  node.boolean = value;
  node.mark = mark;
  return node;
}

Node Node::make_int(std::int64_t value, Mark mark) {
  Node node;
  node.kind = Kind::kInt;
  node.integer = value;
  node.number = static_cast<double>(value);
  node.text = std::to_string(value);
  node.mark = mark;
  return node;
}

Node Node::make_string(std::string value, Mark mark) {
  Node node;
  node.kind = Kind::kString;
  node.text = std::move(value);
  node.mark = mark;
  return node;
}

Node Node::make_mapping(Mark mark) {
  Node node;
  node.kind = Kind::kMapping;
  node.mark = mark;
  return node;
}

Node Node::make_sequence(Mark mark) {
  Node node;
  node.kind = Kind::kSequence;
  node.mark = mark;
  return node;
}

const Node* Node::find(std::string_view key) const {
  if (kind != Kind::kMapping) {
    return nullptr;
  }
  for (const Entry& entry : entries) {
    if (entry.key.is_string() && entry.key.text == key) {
      return &entry.value;
    }
  }
  return nullptr;
}

Node* Node::find(std::string_view key) {
  return const_cast<Node*>(static_cast<const Node*>(this)->find(key));
}

const Node* Node::find_value(std::string_view key) const {
  const Node* found = find(key);
  return found != nullptr && !found->is_null() ? found : nullptr;
}

void Node::set(std::string_view key, Node value) {
  if (Node* found = find(key)) {
    *found = std::move(value);
    return;
  }
  const Mark place = value.mark;
  entries.push_back({make_string(std::string(key), place), std::move(value)});
}

void Node::erase(std::string_view key) {
  std::erase_if(entries,
                [&](const Entry& entry) { return entry.key.is_string() && entry.key.text == key; });
}

void Node::set_all(const std::vector<Entry>& members) {
  std::unordered_map<std::string, std::size_t> places;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].key.is_string()) {
      places.emplace(entries[i].key.text, i);
    }
  }
  for (const Entry& member : members) {
    std::string key = json_key(member.key);
    const auto [place, added] = places.emplace(key, entries.size());
    if (added) {
      entries.push_back({make_string(std::move(key), member.value.mark), member.value});
    } else {
      entries[place->second].value = member.value;
    }
  }
}

std::size_t weight_of(const Node& node) {
  constexpr std::size_t kPart = 64;
  std::size_t weight = kPart + node.text.size() + node.representation.size();
  for (const Node& item : node.items) {
    weight += weight_of(item);
  }
  for (const Entry& entry : node.entries) {
    weight += weight_of(entry.key) + weight_of(entry.value);
  }
  return weight;
}

namespace {

std::string quoted_as_python(std::string_view text) {
  const bool double_quoted =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quoted ? '"' : '\'';
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out(1, quote);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == quote || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += "\\x";
      out += kHex[byte >> 4U];
      out += kHex[byte & 15U];
    } else {
      out += c;
    }
  }
  out += quote;
  return out;
}

}  // namespace

std::string python_repr(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kNull:
      return "None";
    case Node::Kind::kBool:
      return node.boolean ? "True" : "False";
    case Node::Kind::kInt:
      return node.text;
    case Node::Kind::kFloat:
      return python_float_text(node.number);
    case Node::Kind::kString:
      return quoted_as_python(node.text);
    case Node::Kind::kForeign:
      return node.representation;
    case Node::Kind::kSequence: {
      std::string out = "[";
      for (const Node& item : node.items) {
        out.append(out.size() > 1 ? ", " : "").append(python_repr(item));
      }
      return out + "]";
    }
    case Node::Kind::kMapping: {
      std::string out = "{";
      for (const Entry& entry : node.entries) {
        out.append(out.size() > 1 ? ", " : "").append(python_repr(entry.key));
        out.append(": ").append(python_repr(entry.value));
      }
      return out + "}";
    }
  }
  return {};
}

std::string python_str(const Node& node) {
  if (node.kind == Node::Kind::kString || node.kind == Node::Kind::kForeign) {
    return node.text;
  }
  return python_repr(node);
}

std::string json_key(const Node& key) {
  switch (key.kind) {
    case Node::Kind::kNull:
      return "null";
    case Node::Kind::kBool:
      return key.boolean ? "true" : "false";
    default:
      return python_str(key);
  }
}

json::value to_json(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kNull:
      return nullptr;
    case Node::Kind::kBool:
      return node.boolean;
    case Node::Kind::kInt:
      if (node.huge) {
        return node.number;
      }
      return node.integer;
    case Node::Kind::kFloat:
      return node.number;
    case Node::Kind::kString:
    case Node::Kind::kForeign:
      return json::string(node.text);
    case Node::Kind::kSequence: {
      json::array out;
      out.reserve(node.items.size());
      for (const Node& item : node.items) {
        out.push_back(to_json(item));
      }
      return out;
    }
    case Node::Kind::kMapping: {
      json::object out;
      for (const Entry& entry : node.entries) {
        out[json_key(entry.key)] = to_json(entry.value);
      }
      return out;
    }
  }
  return nullptr;
}

std::string shown(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  std::string out = "\"";
  for (const char c : text) {
    if (out.size() > kLongest) {
      // Never cut a UTF-8 sequence in two.
      while (!out.empty() && (static_cast<unsigned char>(out.back()) & 0xC0U) == 0x80U) {
        out.pop_back();
      }
      if (!out.empty() && (static_cast<unsigned char>(out.back()) & 0x80U) != 0) {
        out.pop_back();
      }
      return out + "…\"";
    }
    if (c == '\n') {
      out += "\\n";
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += ' ';
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string shown(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kNull:
      return "null";
    case Node::Kind::kBool:
      return node.boolean ? "true" : "false";
    case Node::Kind::kInt:
      return node.text.size() > 30 ? node.text.substr(0, 30) + "…" : node.text;
    case Node::Kind::kFloat:
      return python_float_text(node.number);
    case Node::Kind::kString:
      return shown(node.text);
    case Node::Kind::kForeign:
      return node.text.size() > 40 ? node.text.substr(0, 40) + "…" : node.text;
    case Node::Kind::kSequence:
      return node.items.empty() ? "an empty list" : "a list";
    case Node::Kind::kMapping:
      return node.entries.empty() ? "an empty mapping" : "a mapping";
  }
  return {};
}

}  // namespace quad::spec
