#include "checkpoint/pickle.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

namespace quad::checkpoint {
namespace {

constexpr std::size_t kMaxThings = 1U << 20U;  // stack entries, strings, dictionaries, memo slots
constexpr std::size_t kMaxString = 512;

enum class Kind : std::uint8_t { kOther, kMark, kInt, kString, kDict };

struct Value {
  Kind kind = Kind::kOther;
  std::int64_t number = 0;  // the integer, or the index of the string or dictionary
};

// The members of a dictionary that matter; -1 is absent for what is never negative.
struct Dict {
  std::int64_t step = -1;
  std::int64_t epoch = -1;
  std::int64_t dp = -1;
  std::int64_t mp = -1;
  std::int64_t offset = -1;
  std::int64_t length = -1;
  std::int32_t path = -1;
  std::uint8_t step_rank = 0;  // how good the key is that `step` came from
};

// The best key for a step first.
constexpr std::array<std::string_view, 9> kStepKeys = {
    "global_step", "global_steps", "step",         "iteration",  "iter_num",
    "iter",        "steps",        "current_step", "num_updates"};

class Walker {
 public:
  explicit Walker(std::string_view bytes) : bytes_(bytes) {}

  Result<PickleFacts> run() {
    while (!stopped_) {
      if (!one()) {
        return short_ ? error(ErrorCode::kInvalid, "This pickle is cut off")
                      : error(ErrorCode::kUnsupported, "This pickle cannot be read");
      }
    }
    if (!stack_.empty() && stack_.back().kind == Kind::kDict) {
      const Dict& top = dicts_[static_cast<std::size_t>(stack_.back().number)];
      const auto known = [](std::int64_t value) {
        return value >= 0 ? std::optional<std::int64_t>(value) : std::nullopt;
      };
      facts_.step = known(top.step);
      facts_.training_epoch = known(top.epoch);
      facts_.dp_world_size = known(top.dp);
      facts_.mp_world_size = known(top.mp);
    }
    facts_.length = at_;
    return std::move(facts_);
  }

 private:
  bool take(std::size_t count, std::string_view& out) {
    if (bytes_.size() - at_ < count) {
      short_ = true;
      return false;
    }
    out = bytes_.substr(at_, count);
    at_ += count;
    return true;
  }

  bool take_number(std::size_t width, std::uint64_t& out) {
    std::string_view raw;
    if (!take(width, raw)) {
      return false;
    }
    out = 0;
    for (std::size_t i = width; i > 0; --i) {
      out = (out << 8U) | static_cast<unsigned char>(raw[i - 1]);
    }
    return true;
  }

  bool take_line(std::string_view& out) {
    const std::size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) {
      short_ = true;
      return false;
    }
    out = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return true;
  }

  bool push(Value value = {}) {
    if (stack_.size() >= kMaxThings) {
      return false;
    }
    stack_.push_back(value);
    return true;
  }

  bool push_int(std::int64_t number) { return push({Kind::kInt, number}); }

  bool push_string(std::string_view text) {
    if (text.size() > kMaxString) {
      return push();
    }
    if (strings_.size() >= kMaxThings) {
      return false;
    }
    strings_.push_back(text);
    return push({Kind::kString, static_cast<std::int64_t>(strings_.size() - 1)});
  }

  bool push_dict() {
    if (dicts_.size() >= kMaxThings) {
      return false;
    }
    dicts_.emplace_back();
    return push({Kind::kDict, static_cast<std::int64_t>(dicts_.size() - 1)});
  }

  bool pop(std::size_t count) {
    if (stack_.size() < count) {
      return false;
    }
    stack_.resize(stack_.size() - count);
    return true;
  }

  // The index of the topmost mark.
  bool find_mark(std::size_t& index) const {
    for (std::size_t i = stack_.size(); i > 0; --i) {
      if (stack_[i - 1].kind == Kind::kMark) {
        index = i - 1;
        return true;
      }
    }
    return false;
  }

  // Drops everything from the topmost mark on.
  bool pop_to_mark() {
    std::size_t mark = 0;
    if (!find_mark(mark)) {
      return false;
    }
    stack_.resize(mark);
    return true;
  }

  void set_item(const Value& target, const Value& key, const Value& value) {
    if (target.kind != Kind::kDict || key.kind != Kind::kString) {
      return;
    }
    Dict& dict = dicts_[static_cast<std::size_t>(target.number)];
    const std::string_view name = strings_[static_cast<std::size_t>(key.number)];
    if (value.kind == Kind::kString && name == "relative_path") {
      dict.path = static_cast<std::int32_t>(value.number);
    }
    if (value.kind != Kind::kInt || value.number < 0) {
      return;
    }
    if (name == "epoch" || name == "epochs_run" || name == "current_epoch") {
      dict.epoch = value.number;
    } else if (name == "dp_world_size") {
      dict.dp = value.number;
    } else if (name == "mp_world_size") {
      dict.mp = value.number;
    } else if (name == "offset") {
      dict.offset = value.number;
    } else if (name == "length") {
      dict.length = value.number;
    } else {
      const auto* found = std::find(kStepKeys.begin(), kStepKeys.end(), name);
      const auto rank = static_cast<std::uint8_t>(kStepKeys.end() - found);
      if (rank > dict.step_rank) {
        dict.step_rank = rank;
        dict.step = value.number;
      }
    }
  }

  bool set_items() {
    std::size_t mark = 0;
    if (!find_mark(mark) || mark == 0) {
      return false;
    }
    const Value target = stack_[mark - 1];
    for (std::size_t i = mark + 1; i + 1 < stack_.size(); i += 2) {
      set_item(target, stack_[i], stack_[i + 1]);
    }
    stack_.resize(mark);
    return true;
  }

  // An object gets its state: if that describes a stretch of a file, it is kept.
  bool build() {
    if (stack_.size() < 2) {
      return false;
    }
    const Value state = stack_.back();
    stack_.pop_back();
    if (state.kind == Kind::kDict) {
      const Dict& dict = dicts_[static_cast<std::size_t>(state.number)];
      if (dict.path >= 0 && dict.offset >= 0 && dict.length >= 0 &&
          dict.offset <= std::numeric_limits<std::int64_t>::max() - dict.length) {
        const auto end = static_cast<std::uint64_t>(dict.offset + dict.length);
        auto& known = facts_.extents[std::string(strings_[static_cast<std::size_t>(dict.path)])];
        known = std::max(known, end);
      }
    }
    return true;
  }

  bool put(std::uint64_t slot) {
    if (stack_.empty() || slot >= kMaxThings) {
      return false;
    }
    if (memo_.size() <= slot) {
      memo_.resize(static_cast<std::size_t>(slot) + 1);
    }
    memo_[static_cast<std::size_t>(slot)] = stack_.back();
    memo_used_ = std::max(memo_used_, slot + 1);
    return true;
  }

  bool get(std::uint64_t slot) {
    return slot < memo_.size() && push(memo_[static_cast<std::size_t>(slot)]);
  }

  static bool decimal(std::string_view text, std::uint64_t& out) {
    out = 0;
    if (text.empty() || text.size() > 18) {
      return false;
    }
    for (const char c : text) {
      if (c < '0' || c > '9') {
        return false;
      }
      out = out * 10 + static_cast<std::uint64_t>(c - '0');
    }
    return true;
  }

  // A length of `width` bytes, then that many bytes of text (kept) or of data (dropped).
  bool sized(std::size_t width, bool text) {
    std::uint64_t length = 0;
    std::string_view body;
    if (!take_number(width, length) || !take(length, body)) {
      return false;
    }
    return text ? push_string(body) : push();
  }

  bool long_int(std::size_t width) {
    std::uint64_t length = 0;
    std::string_view body;
    if (!take_number(width, length) || !take(length, body)) {
      return false;
    }
    if (length > 8) {
      return push();
    }
    std::uint64_t number = 0;
    for (std::size_t i = body.size(); i > 0; --i) {
      number = (number << 8U) | static_cast<unsigned char>(body[i - 1]);
    }
    if (length > 0 && length < 8 && (static_cast<unsigned char>(body.back()) & 0x80U) != 0) {
      number |= ~std::uint64_t{0} << (8 * length);
    }
    return push_int(static_cast<std::int64_t>(number));
  }

  // Numbered arguments of the opcodes that a pickle of protocol 0 to 5 may hold.
  bool one() {
    std::string_view text;
    std::uint64_t number = 0;
    if (!take(1, text)) {
      return false;
    }
    switch (static_cast<unsigned char>(text[0])) {
      case '.':
        stopped_ = true;
        return true;
      case 0x80:
        return take(1, text);
      case 0x95:
        return take(8, text);
      case 'K':
        return take_number(1, number) && push_int(static_cast<std::int64_t>(number));
      case 'M':
        return take_number(2, number) && push_int(static_cast<std::int64_t>(number));
      case 'J':
        return take_number(4, number) &&
               push_int(static_cast<std::int32_t>(static_cast<std::uint32_t>(number)));
      case 0x8A:
        return long_int(1);
      case 0x8B:
        return long_int(4);
      case 'I':
      case 'L':
        if (!take_line(text)) {
          return false;
        }
        if (!text.empty() && text.back() == 'L') {
          text.remove_suffix(1);
        }
        return decimal(text, number) ? push_int(static_cast<std::int64_t>(number)) : push();
      case 'G':
        return take(8, text) && push();
      case 'F':
        return take_line(text) && push();
      case 'N':
      case 0x88:
      case 0x89:
      case ']':
      case ')':
      case 0x8F:
      case 0x97:
        return push();
      case 0x98:
        return true;
      case '}':
        return push_dict();
      case 'X':
      case 'T':
        return sized(4, true);
      case 'U':
      case 0x8C:
        return sized(1, true);
      case 0x8D:
        return sized(8, true);
      case 'B':
        return sized(4, false);
      case 'C':
        return sized(1, false);
      case 0x8E:
      case 0x96:
        return sized(8, false);
      case 'V':
        return take_line(text) && push_string(text);
      case 'S':
        if (!take_line(text)) {
          return false;
        }
        return push_string(text.size() >= 2 ? text.substr(1, text.size() - 2) : text);
      case '(':
        return push({Kind::kMark, 0});
      case '0':
        return pop(1);
      case '1':
        return pop_to_mark();
      case '2':
        return !stack_.empty() && push(stack_.back());
      case 't':
      case 'l':
      case 0x91:
        return pop_to_mark() && push();
      case 'o':
        return pop_to_mark() && push();
      case 'd': {
        std::size_t mark = 0;
        if (!find_mark(mark) || dicts_.size() >= kMaxThings) {
          return false;
        }
        dicts_.emplace_back();
        const Value target{Kind::kDict, static_cast<std::int64_t>(dicts_.size() - 1)};
        for (std::size_t i = mark + 1; i + 1 < stack_.size(); i += 2) {
          set_item(target, stack_[i], stack_[i + 1]);
        }
        stack_.resize(mark);
        return push(target);
      }
      case 0x85:
        return pop(1) && push();
      case 0x86:
        return pop(2) && push();
      case 0x87:
        return pop(3) && push();
      case 's':
        if (stack_.size() < 3) {
          return false;
        }
        set_item(stack_[stack_.size() - 3], stack_[stack_.size() - 2], stack_.back());
        return pop(2);
      case 'u':
        return set_items();
      case 'a':
        return pop(1);
      case 'e':
      case 0x90:
        return pop_to_mark();
      case 'q':
        return take_number(1, number) && put(number);
      case 'r':
        return take_number(4, number) && put(number);
      case 'p':
        return take_line(text) && decimal(text, number) && put(number);
      case 'h':
        return take_number(1, number) && get(number);
      case 'j':
        return take_number(4, number) && get(number);
      case 'g':
        return take_line(text) && decimal(text, number) && get(number);
      case 0x94:
        return put(memo_used_);
      case 'c':
        return take_line(text) && take_line(text) && push();
      case 'i':
        return take_line(text) && take_line(text) && pop_to_mark() && push();
      case 0x93:
      case 'R':
      case 0x81:
        return pop(2) && push();
      case 0x92:
        return pop(3) && push();
      case 'b':
        return build();
      case 'P':
        return take_line(text) && push();
      case 'Q':
        return pop(1) && push();
      case 0x82:
        return take(1, text) && push();
      case 0x83:
        return take(2, text) && push();
      case 0x84:
        return take(4, text) && push();
      default:
        return false;
    }
  }

  std::string_view bytes_;
  std::size_t at_ = 0;
  bool stopped_ = false;
  bool short_ = false;  // an argument reaches beyond the end
  std::vector<Value> stack_;
  std::vector<std::string_view> strings_;
  std::vector<Dict> dicts_;
  std::vector<Value> memo_;
  std::uint64_t memo_used_ = 0;
  PickleFacts facts_;
};

}  // namespace

Result<PickleFacts> read_pickle(std::string_view bytes) {
  return Walker(bytes).run();
}

}  // namespace quad::checkpoint
