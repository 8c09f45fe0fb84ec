#include "spec/yaml.h"

#include <yaml.h>

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>

#include <fmt/format.h>

#include "spec/number.h"
#include "spec/yaml_scalar.h"

namespace quad::spec {

namespace {

/// libyaml's event, freed when it goes.
class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { clear(); }

  void clear() {
    yaml_event_delete(&event_);
    event_ = {};
  }
  yaml_event_t* operator->() { return &event_; }
  yaml_event_t* get() { return &event_; }
  [[nodiscard]] Mark mark() const {
    return {static_cast<int>(event_.start_mark.line) + 1,
            static_cast<int>(event_.start_mark.column) + 1};
  }

 private:
  yaml_event_t event_{};
};

std::string_view text_of(const yaml_char_t* text) {
  return text == nullptr ? std::string_view() : reinterpret_cast<const char*>(text);
}

struct Weight {
  std::size_t nodes = 1;
  std::size_t bytes = 0;
};

Weight weigh(const Node& node) {
  Weight total;
  total.bytes = node.text.size() + node.representation.size();
  const auto add = [&](const Node& part) {
    const Weight weight = weigh(part);
    total.nodes += weight.nodes;
    total.bytes += weight.bytes;
  };
  for (const Node& item : node.items) {
    add(item);
  }
  for (const Entry& entry : node.entries) {
    add(entry.key);
    add(entry.value);
  }
  return total;
}

/// Two keys with the same text here are one key in Python: 1, 1.0 and true are.
std::string identity(const Node& key) {
  switch (key.kind) {
    case Node::Kind::kString:
      return "s" + key.text;
    case Node::Kind::kNull:
      return "n";
    case Node::Kind::kBool:
      return key.boolean ? "i1" : "i0";
    case Node::Kind::kInt:
      return "i" + key.text;
    case Node::Kind::kFloat:
      return is_whole(key.number) ? fmt::format("i{}", static_cast<std::int64_t>(key.number))
                                  : "f" + python_float_text(key.number);
    default:
      return "x" + python_repr(key);
  }
}

/// Appends members as a Python dict takes them: a key that is there already keeps its place and
/// gets the new value.
class Members {
 public:
  explicit Members(std::vector<Entry>& entries) : entries_(entries) {}

  void put(Entry entry) {
    const auto [place, added] = places_.emplace(identity(entry.key), entries_.size());
    if (added) {
      entries_.push_back(std::move(entry));
    } else {
      entries_[place->second].value = std::move(entry.value);
    }
  }

 private:
  std::vector<Entry>& entries_;
  std::unordered_map<std::string, std::size_t> places_;
};

/// One pass over the events of a stream. Every function returns false once `error` is set.
class Composer {
 public:
  Composer(std::string_view text, const YamlLimits& limits)
      : text_(text), limits_(limits.for_text(text.size())) {
    yaml_parser_initialize(&parser_);
    yaml_parser_set_encoding(&parser_, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser_, reinterpret_cast<const unsigned char*>(text.data()),
                                 text.size());
  }
  Composer(const Composer&) = delete;
  Composer& operator=(const Composer&) = delete;
  ~Composer() { yaml_parser_delete(&parser_); }

  YamlStream read() {
    YamlStream stream;
    Event event;
    while (next(event) && event->type != YAML_STREAM_END_EVENT) {
      if (event->type == YAML_DOCUMENT_START_EVENT) {
        anchors_.clear();
        Node root;
        if (!next(event) || !compose(event, root, 0)) {
          break;
        }
        stream.documents.push_back(std::move(root));
      }
    }
    if (error_) {
      stream.documents.clear();
      stream.error = std::move(error_);
    }
    return stream;
  }

 private:
  bool fail(Mark mark, std::string message, std::string hint = {}) {
    error_ = Diagnostic{std::move(message), {}, std::move(hint), mark.line, mark.column};
    return false;
  }

  bool next(Event& event) {
    event.clear();
    if (yaml_parser_parse(&parser_, event.get()) != 0) {
      return true;
    }
    return fail_as_parser();
  }

  bool fail_as_parser() {
    const std::string problem = parser_.problem != nullptr ? parser_.problem : "out of memory";
    if (parser_.error == YAML_READER_ERROR) {
      const std::size_t offset = std::min<std::size_t>(parser_.problem_offset, text_.size());
      const std::string_view before = text_.substr(0, offset);
      const std::size_t line_start = before.rfind('\n') + 1;
      const Mark mark{static_cast<int>(std::count(before.begin(), before.end(), '\n')) + 1,
                      static_cast<int>(offset - line_start) + 1};
      if (problem.find("UTF-8") != std::string::npos) {
        return fail(mark, fmt::format("the file is not UTF-8 text: {}", problem),
                    "save it as UTF-8");
      }
      return fail(mark, fmt::format("the file has a character that YAML does not allow (0x{:02X})",
                                    std::max(0, parser_.problem_value)));
    }
    const Mark mark{static_cast<int>(parser_.problem_mark.line) + 1,
                    static_cast<int>(parser_.problem_mark.column) + 1};
    std::string message = "the file is not valid YAML: ";
    if (parser_.context != nullptr) {
      message += fmt::format("{} that begins on line {}, ", parser_.context,
                             parser_.context_mark.line + 1);
    }
    std::string hint;
    if (problem.find("found character '\\t'") != std::string::npos ||
        problem.find("cannot start any token") != std::string::npos) {
      hint = "indent with spaces, and quote text that begins with a special character";
    } else if (problem.find("mapping values are not allowed") != std::string::npos) {
      hint = "quote text that has \": \" in it, or check the indentation";
    }
    return fail(mark, message + problem, hint);
  }

  bool spend(Weight weight, Mark mark) {
    nodes_ += weight.nodes;
    bytes_ += weight.bytes;
    if (nodes_ > limits_.nodes) {
      return fail(mark, fmt::format("the file has more than {} values once its aliases are "
                                    "written out; a task file needs a few hundred",
                                    limits_.nodes));
    }
    if (bytes_ > limits_.expanded_bytes) {
      return fail(mark, fmt::format("the file has more than {} MiB of text once its aliases are "
                                    "written out",
                                    limits_.expanded_bytes >> 20U));
    }
    return true;
  }

  bool compose(Event& event, Node& node, int depth) {
    const Mark mark = event.mark();
    if (depth > limits_.depth) {
      return fail(mark, fmt::format("the file nests lists and mappings more than {} levels deep",
                                    limits_.depth));
    }
    if (event->type == YAML_ALIAS_EVENT) {
      return copy_anchor(std::string(text_of(event->data.alias.anchor)), mark, node);
    }
    const bool is_scalar = event->type == YAML_SCALAR_EVENT;
    std::string anchor;
    bool good = false;
    switch (event->type) {
      case YAML_SCALAR_EVENT:
        anchor = text_of(event->data.scalar.anchor);
        good = open_anchor(anchor, mark) && scalar(event, node);
        break;
      case YAML_SEQUENCE_START_EVENT:
        anchor = text_of(event->data.sequence_start.anchor);
        good = open_anchor(anchor, mark) && sequence(event, node, depth);
        break;
      case YAML_MAPPING_START_EVENT:
        anchor = text_of(event->data.mapping_start.anchor);
        good = open_anchor(anchor, mark) && mapping(event, node, depth);
        break;
      default:
        return fail(mark, "the file is not valid YAML");
    }
    if (!good) {
      return false;
    }
    if (!anchor.empty()) {
      if (!spend(weigh(node), mark)) {
        return false;
      }
      anchors_[anchor].node = node;
      anchors_[anchor].open = false;
      anchors_[anchor].scalar = is_scalar;
    }
    return true;
  }

  bool open_anchor(const std::string& anchor, Mark mark) {
    if (anchor.empty()) {
      return true;
    }
    const auto [place, added] = anchors_.try_emplace(anchor);
    if (!added) {
      return fail(mark,
                  fmt::format("the anchor &{} is given twice in one document; give it another "
                              "name",
                              anchor));
    }
    place->second.merge = false;
    return true;
  }

  bool copy_anchor(const std::string& anchor, Mark mark, Node& node) {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) {
      return fail(mark, fmt::format("the alias *{0} has no anchor &{0} before it", anchor));
    }
    if (found->second.open) {
      return fail(mark, fmt::format("the alias *{} stands inside its own anchor", anchor));
    }
    if (!spend(weigh(found->second.node), mark)) {
      return false;
    }
    node = found->second.node;
    return true;
  }

  bool scalar(Event& event, Node& node) {
    const Mark mark = event.mark();
    const auto& data = event->data.scalar;
    const std::string_view text(reinterpret_cast<const char*>(data.value), data.length);
    if (!spend({1, text.size()}, mark)) {
      return false;
    }
    ScalarType type = ScalarType::kString;
    const std::string_view tag = text_of(data.tag);
    if (tag.empty() || tag == "!") {
      type = data.plain_implicit != 0 ? resolve_plain(text) : ScalarType::kString;
    } else if (const auto named = scalar_type(tag)) {
      type = *named;
    } else {
      return fail(mark,
                  fmt::format("the tag {} is not one that a task file can use on a plain value",
                              shown(tag)));
    }
    merge_key_ = type == ScalarType::kMerge;
    if (merge_key_ && !reading_key_) {
      return fail(mark, "\"<<\" is the merge key and no value; quote it", "\"<<\"");
    }
    auto value = construct_scalar(type, text, mark);
    if (!value) {
      return fail(mark,
                  type == ScalarType::kValue
                      ? std::string("a lone \"=\" has no meaning here; quote it")
                      : fmt::format("{} is not a value of its YAML type", shown(text)),
                  type == ScalarType::kValue ? "\"=\"" : "quote it if it is text");
    }
    node = std::move(*value);
    return true;
  }

  static std::optional<ScalarType> scalar_type(std::string_view tag) {
    constexpr std::string_view kPrefix = "tag:yaml.org,2002:";
    if (!tag.starts_with(kPrefix)) {
      return std::nullopt;
    }
    const std::string_view name = tag.substr(kPrefix.size());
    const std::map<std::string_view, ScalarType> kTypes = {
        {"str", ScalarType::kString},    {"bool", ScalarType::kBool},
        {"int", ScalarType::kInt},       {"float", ScalarType::kFloat},
        {"null", ScalarType::kNull},     {"timestamp", ScalarType::kTimestamp},
        {"binary", ScalarType::kBinary},
    };
    const auto found = kTypes.find(name);
    return found == kTypes.end() ? std::nullopt : std::optional(found->second);
  }

  bool sequence(Event& event, Node& node, int depth) {
    const Mark mark = event.mark();
    const std::string tag(text_of(event->data.sequence_start.tag));
    const bool pairs = tag == "tag:yaml.org,2002:omap" || tag == "tag:yaml.org,2002:pairs";
    if (!tag.empty() && tag != "!" && tag != "tag:yaml.org,2002:seq" && !pairs) {
      return fail(mark, fmt::format("the tag {} is not one that a task file can use on a list",
                                    shown(tag)));
    }
    if (!spend({1, 0}, mark)) {
      return false;
    }
    node = Node::make_sequence(mark);
    while (next(event) && event->type != YAML_SEQUENCE_END_EVENT) {
      Node item;
      if (!compose(event, item, depth + 1)) {
        return false;
      }
      node.items.push_back(std::move(item));
    }
    if (error_) {
      return false;
    }
    return !pairs || to_pairs(node);
  }

  bool to_pairs(Node& node) {
    std::string shown_pairs = "[";
    for (const Node& item : node.items) {
      if (!item.is_mapping() || item.entries.size() != 1) {
        return fail(item.mark, "a list tagged !!omap or !!pairs holds mappings of one key each");
      }
      shown_pairs.append(shown_pairs.size() > 1 ? ", (" : "(");
      shown_pairs.append(python_repr(item.entries[0].key)).append(", ");
      shown_pairs.append(python_repr(item.entries[0].value)).append(")");
    }
    make_foreign(node, shown_pairs + "]");
    return true;
  }

  static void make_foreign(Node& node, std::string text) {
    node.kind = Node::Kind::kForeign;
    node.items.clear();
    node.entries.clear();
    node.text = node.representation = std::move(text);
  }

  bool mapping(Event& event, Node& node, int depth) {
    const Mark mark = event.mark();
    const std::string tag(text_of(event->data.mapping_start.tag));
    const bool is_set = tag == "tag:yaml.org,2002:set";
    if (!tag.empty() && tag != "!" && tag != "tag:yaml.org,2002:map" && !is_set) {
      return fail(mark, fmt::format("the tag {} is not one that a task file can use on a mapping",
                                    shown(tag)));
    }
    if (!spend({1, 0}, mark)) {
      return false;
    }
    node = Node::make_mapping(mark);
    std::vector<Entry> own;
    std::vector<Entry> merged;
    std::unordered_map<std::string, int> lines;  // of each scalar key, by its text in the file
    while (next(event) && event->type != YAML_MAPPING_END_EVENT) {
      Entry entry;
      bool merge = false;
      if (!key(event, entry.key, lines, merge, depth) || !next(event) ||
          !compose(event, entry.value, depth + 1)) {
        return false;
      }
      if (!merge) {
        own.push_back(std::move(entry));
      } else if (!collect_merge(entry.value, merged)) {
        return false;
      }
    }
    if (error_) {
      return false;
    }
    Members members(node.entries);
    for (Entry& entry : merged) {
      members.put(std::move(entry));
    }
    for (Entry& entry : own) {
      members.put(std::move(entry));
    }
    if (is_set) {
      std::string shown_set = "{";
      for (const Entry& entry : node.entries) {
        shown_set.append(shown_set.size() > 1 ? ", " : "").append(python_repr(entry.key));
      }
      make_foreign(node, node.entries.empty() ? "set()" : shown_set + "}");
    }
    return true;
  }

  bool key(Event& event, Node& node, std::unordered_map<std::string, int>& lines, bool& merge,
           int depth) {
    const Mark mark = event.mark();
    const bool alias = event->type == YAML_ALIAS_EVENT;
    const bool collection = !alias && event->type != YAML_SCALAR_EVENT;
    const std::string anchor(alias ? text_of(event->data.alias.anchor) : std::string_view());
    std::optional<std::string> text;
    std::string own_anchor;
    if (event->type == YAML_SCALAR_EVENT) {
      text.emplace(reinterpret_cast<const char*>(event->data.scalar.value),
                   event->data.scalar.length);
      own_anchor = text_of(event->data.scalar.anchor);
    }
    merge_key_ = false;
    reading_key_ = event->type == YAML_SCALAR_EVENT;
    const bool composed = compose(event, node, depth + 1);
    reading_key_ = false;
    if (!composed) {
      return false;
    }
    if (collection || (alias && !anchors_[anchor].scalar)) {
      return fail(mark, "a key is a list or a mapping; write a plain word");
    }
    if (alias) {
      merge = anchors_[anchor].merge;
      text = anchors_[anchor].key_text.empty() ? python_str(node) : anchors_[anchor].key_text;
    } else {
      merge = merge_key_;
      if (!own_anchor.empty() && text) {
        anchors_[own_anchor].merge = merge;
        anchors_[own_anchor].key_text = *text;
      }
    }
    const auto [place, added] = lines.emplace(*text, mark.line);
    if (!added) {
      return fail(mark, fmt::format("the key {} is given twice, on lines {} and {}; remove one",
                                    shown(*text), place->second, mark.line));
    }
    return true;
  }

  bool collect_merge(const Node& value, std::vector<Entry>& merged) {
    if (value.is_mapping()) {
      if (!spend(weigh(value), value.mark)) {
        return false;
      }
      merged.insert(merged.end(), value.entries.begin(), value.entries.end());
      return true;
    }
    if (!value.is_sequence() || !std::all_of(value.items.begin(), value.items.end(),
                                             [](const Node& n) { return n.is_mapping(); })) {
      return fail(value.mark, "the merge key \"<<\" takes a mapping or a list of mappings");
    }
    for (auto item = value.items.rbegin(); item != value.items.rend(); ++item) {
      if (!collect_merge(*item, merged)) {
        return false;
      }
    }
    return true;
  }

  struct Anchor {
    Node node;
    bool scalar = false;
    bool open = true;      ///< still being read: an alias to it would be a circle
    bool merge = false;    ///< stands for a plain "<<"
    std::string key_text;  ///< as written, where it is a key
  };

  std::string_view text_;
  const YamlLimits limits_;
  yaml_parser_t parser_{};
  std::map<std::string, Anchor> anchors_;
  std::size_t nodes_ = 0;
  std::size_t bytes_ = 0;
  bool reading_key_ = false;
  bool merge_key_ = false;  ///< whether the last scalar was a plain "<<"
  std::optional<Diagnostic> error_;
};

}  // namespace

YamlLimits YamlLimits::for_text(std::size_t bytes) const {
  YamlLimits own = *this;
  own.nodes = std::min(nodes, 2'000 + 4 * bytes);
  own.expanded_bytes = std::min(expanded_bytes, (64U << 10U) + 16 * bytes);
  return own;
}

namespace {

/// libyaml compares each %TAG with all before it.
std::size_t count_tag_lines(std::string_view text) {
  constexpr std::string_view kTag = "\n%TAG";
  std::size_t count = text.starts_with(kTag.substr(1)) ? 1 : 0;
  for (std::size_t at = text.find(kTag); at != std::string_view::npos;
       at = text.find(kTag, at + 1)) {
    ++count;
  }
  return count;
}

}  // namespace

YamlStream read_yaml(std::string_view text, const YamlLimits& limits) {
  YamlStream stream;
  if (text.size() > limits.text_bytes) {
    stream.error = Diagnostic{
        fmt::format("the file has {} bytes; a task file may have {} at most (put data into the "
                    "workdir or a file mount)",
                    text.size(), limits.text_bytes),
        {},
        {},
        0,
        0};
    return stream;
  }
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark)) {
    text.remove_prefix(kByteOrderMark.size());
  }
  if (const std::size_t tags = count_tag_lines(text); tags > limits.tags) {
    stream.error = Diagnostic{fmt::format("the file has {} lines that begin with %TAG; {} are the "
                                          "most allowed, and a task file needs none",
                                          tags, limits.tags),
                              {},
                              {},
                              1,
                              1};
    return stream;
  }
  return Composer(text, limits).read();
}

}  // namespace quad::spec
