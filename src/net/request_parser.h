// net/request_parser.h  (inside the module only)
//
// From bytes to a Request: Beast's parser with our own storage beneath it. The head's text goes
// into one arena that a connection reuses for all its requests, so that a request on a warm
// connection allocates nothing here.

#pragma once

#include <boost/beast/http/basic_parser.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "net/message.h"

namespace quad::net {

/// Bytes read and not yet used, in one piece.
class InputBuffer {
 public:
  [[nodiscard]] std::string_view view() const {
    return std::string_view(bytes_.data() + begin_, end_ - begin_);
  }
  [[nodiscard]] bool empty() const { return begin_ == end_; }
  void consume(std::size_t count) { begin_ += count; }
  void commit(std::size_t count) { end_ += count; }

  /// Free space at the end, after moving what is unread to the front if that helps and growing up
  /// to `limit` in all if it does not. Empty if the buffer is full of `limit` unread bytes.
  std::span<char> prepare(std::size_t limit);
  /// Gives back the memory that a large body needed, if nothing is unread.
  void shrink();

 private:
  std::vector<char> bytes_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

/// The head of a request, as offsets while it grows.
class HeadArena {
 public:
  void clear();
  void add_start(std::string_view method, std::string_view target);
  void add_field(std::string_view name, std::string_view value);
  /// Points the request's views at the text, which must not grow from now on.
  void publish(Request& request) const;

 private:
  struct Span {
    std::uint32_t name_size;
    std::uint32_t value_size;
  };
  std::string text_;
  std::uint32_t method_size_ = 0;
  std::uint32_t target_size_ = 0;
  std::vector<Span> fields_;  ///< laid out one behind the other, after method and target
};

class RequestParser final : public boost::beast::http::basic_parser<true> {
 public:
  RequestParser(HeadArena& arena, std::size_t header_limit);

  /// Feeds what is in `buffer` and consumes what was used. After the head, stops after each piece
  /// of the body. True if it made progress, false if it needs more bytes or failed.
  bool advance(InputBuffer& buffer, boost::beast::error_code& failure);
  /// The piece of the body that the last advance() brought; points into the buffer.
  [[nodiscard]] std::string_view piece() const { return piece_; }
  [[nodiscard]] bool http_1_1() const { return version_ == 11; }
  [[nodiscard]] bool has_transfer_encoding() const { return has_transfer_encoding_; }

 private:
  using Verb = boost::beast::http::verb;
  using FieldName = boost::beast::http::field;
  using Text = boost::beast::string_view;
  using Failure = boost::beast::error_code;

  void on_request_impl(Verb, Text method, Text target, int version, Failure&) override;
  void on_response_impl(int, Text, int, Failure&) override {}
  void on_field_impl(FieldName, Text name, Text value, Failure&) override;
  void on_header_impl(Failure&) override { in_head_ = false; }
  void on_body_init_impl(const boost::optional<std::uint64_t>&, Failure&) override {}
  std::size_t on_body_impl(Text body, Failure&) override;
  void on_chunk_header_impl(std::uint64_t, Text, Failure&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, Text body, Failure&) override;
  void on_finish_impl(Failure&) override {}

  HeadArena& arena_;
  std::size_t header_limit_;
  std::size_t head_bytes_ = 0;  ///< of the head, consumed so far
  std::string_view piece_;
  int version_ = 0;
  bool in_head_ = true;
  bool has_transfer_encoding_ = false;
};

}  // namespace quad::net
