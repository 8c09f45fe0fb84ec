#include "cli/terminal_filter.h"

#include <utility>

namespace quad::cli {
namespace {

constexpr char kEscape = '\x1b';
constexpr char kLead = '\xc2';  // of U+0080 to U+00BF in UTF-8
constexpr std::string_view kOwn = "[quad:";
constexpr std::size_t kLongestSequence = 64;

bool is_between(char byte, char least, char most) {
  return byte >= least && byte <= most;
}

}  // namespace

std::string TerminalFilter::filter(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() + kOwn.size());
  for (const char byte : bytes) {
    switch (state_) {
      case State::kText:
        text(byte, out);
        break;
      case State::kEscape:
        sequence_ += byte;
        state_ = byte == '[' ? State::kSequence
                 : byte == ']' || byte == 'P' || byte == 'X' || byte == '^' || byte == '_'
                     ? State::kString
                 : is_between(byte, ' ', '/') ? State::kCharset
                                              : State::kText;
        break;
      case State::kCharset:
        if (!is_between(byte, ' ', '/')) {
          state_ = State::kText;
        }
        break;
      case State::kSequence:
        sequence(byte, out);
        break;
      case State::kString:
        state_ = byte == '\a'      ? State::kText
                 : byte == kEscape ? State::kStringEscape
                 : byte == '\n'    ? State::kText  // not a string then: nothing more is swallowed
                                   : State::kString;
        if (byte == '\n') {
          text(byte, out);
        }
        break;
      case State::kStringEscape:
        state_ = byte == '\\' ? State::kText : State::kString;
        break;
    }
  }
  return out;
}

std::string TerminalFilter::finish() {
  std::string out;
  release_lead(out);
  release(out);
  return out;
}

void TerminalFilter::release_lead(std::string& out) {
  if (std::exchange(lead_, false)) {
    release(out);
    out += kLead;
    line_start_ = false;
  }
}

void TerminalFilter::release(std::string& out) {
  out += std::exchange(held_, {});
}

void TerminalFilter::text(char byte, std::string& out) {
  if (byte == kEscape) {
    release_lead(out);
    if (!held_.empty()) {
      line_start_ = false;
    }
    release(out);
    sequence_ = byte;
    state_ = State::kEscape;
    return;
  }
  if (lead_) {
    // U+0080 to U+009F: C1 controls, the eight-bit form of escape sequences.
    const auto value = static_cast<unsigned char>(byte);
    if (value >= 0x80 && value < 0xa0) {
      lead_ = false;
      return;
    }
    release_lead(out);
  }
  if (byte == kLead) {
    lead_ = true;
    return;
  }
  const bool control = static_cast<unsigned char>(byte) < 0x20 || byte == '\x7f';
  if (control && byte != '\n' && byte != '\r' && byte != '\t' && byte != '\b') {
    return;
  }
  if (line_start_ && byte == kOwn[held_.size()]) {
    held_ += byte;
    if (held_ == kOwn) {
      out += '\\';
      release(out);
      line_start_ = false;
    }
    return;
  }
  release(out);
  out += byte;
  // Behind a carriage return or a backspace a line may be written anew.
  line_start_ = byte == '\n' || byte == '\r' || (byte == '\b' && line_start_);
}

void TerminalFilter::sequence(char byte, std::string& out) {
  sequence_ += byte;
  if (is_between(byte, '\x40', '\x7e')) {
    // Colours, and the erasing of a line, in which what is written next stands. With a private mark
    // ('?', '>') they would be something else.
    const bool plain = sequence_.find_first_not_of("0123456789;:", 2) == sequence_.size() - 1;
    if ((byte == 'm' || byte == 'K') && plain) {
      out += sequence_;
    }
    state_ = State::kText;
  } else if (!is_between(byte, '\x20', '\x3f') || sequence_.size() > kLongestSequence) {
    state_ = State::kText;
    if (byte == '\n') {
      text(byte, out);
    }
  }
}

}  // namespace quad::cli
