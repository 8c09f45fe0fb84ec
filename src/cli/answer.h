// cli/answer.h
//
// Reading what a server has answered, whatever it is: a server may be of another version, another
// program, or hostile. With these, and get_string() and the like of base/json.h, nothing that it
// says can end the command line but by a sentence and an exit code; at(), as_object() and a list
// without a look at it have no place here. Client::get_list() refuses an answer that is none of
// what was asked for. Pure, any thread.

#pragma once

#include <string_view>

#include "base/json.h"

namespace quad::cli {

/// The object that it is; an empty one if it is something else.
inline const json::object& object_of(const json::value& value) {
  static const json::object kNone;
  const json::object* object = value.if_object();
  return object == nullptr ? kNone : *object;
}

/// The text that it is; empty if it is something else.
inline std::string_view string_of(const json::value& value) {
  const json::string* text = value.if_string();
  return text == nullptr ? std::string_view() : std::string_view(text->data(), text->size());
}

/// The list under `key`; an empty one if there is none.
inline const json::array& list_of(const json::object& object, std::string_view key) {
  static const json::array kNone;
  const json::array* list = get_array(object, key);
  return list == nullptr ? kNone : *list;
}

/// Whether there is a whole number under `key`.
inline bool has_number(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_int64();
}

}  // namespace quad::cli
