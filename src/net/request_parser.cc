#include "net/request_parser.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <cstring>

namespace quad::net {

namespace {

constexpr std::size_t kFirstCapacity = 4096;
constexpr std::size_t kKeptCapacity = 16U << 10U;

std::string_view to_view(boost::beast::string_view text) {
  return {text.data(), text.size()};
}

}  // namespace

std::span<char> InputBuffer::prepare(std::size_t limit) {
  if (begin_ == end_) {
    begin_ = end_ = 0;
  }
  if (begin_ > 0 && bytes_.size() - end_ < bytes_.size() / 4) {
    std::memmove(bytes_.data(), bytes_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (end_ == bytes_.size() && bytes_.size() < limit) {
    bytes_.resize(std::min(limit, std::max(kFirstCapacity, bytes_.size() * 4)));
  }
  return {bytes_.data() + end_, bytes_.size() - end_};
}

void InputBuffer::shrink() {
  if (empty() && bytes_.size() > kKeptCapacity) {
    bytes_ = {};
    begin_ = end_ = 0;
  }
}

void HeadArena::clear() {
  text_.clear();
  fields_.clear();
}

void HeadArena::add_start(std::string_view method, std::string_view target) {
  method_size_ = static_cast<std::uint32_t>(method.size());
  target_size_ = static_cast<std::uint32_t>(target.size());
  text_ += method;
  text_ += target;
}

void HeadArena::add_field(std::string_view name, std::string_view value) {
  fields_.push_back(
      {static_cast<std::uint32_t>(name.size()), static_cast<std::uint32_t>(value.size())});
  text_ += name;
  text_ += value;
}

void HeadArena::publish(Request& request) const {
  std::string_view rest = text_;
  const auto take = [&rest](std::size_t count) {
    const auto part = rest.substr(0, count);
    rest.remove_prefix(count);
    return part;
  };
  request.method = take(method_size_);
  request.target = take(target_size_);
  request.headers.clear();
  for (const auto& field : fields_) {
    const auto name = take(field.name_size);
    const auto value = take(field.value_size);
    request.headers.push_back({name, value});
  }
}

RequestParser::RequestParser(HeadArena& arena, std::size_t header_limit)
    : arena_(arena), header_limit_(header_limit) {
  header_limit_ = std::min<std::size_t>(header_limit_, UINT32_MAX);
  this->header_limit(static_cast<std::uint32_t>(header_limit_));
  body_limit(boost::none);
  eager(false);
  arena_.clear();
}

bool RequestParser::advance(InputBuffer& buffer, boost::beast::error_code& failure) {
  namespace http = boost::beast::http;
  piece_ = {};
  failure = {};
  const auto view = buffer.view();
  if (view.empty()) {
    return false;
  }
  const bool in_head = in_head_;
  const auto used = put(boost::asio::const_buffer(view.data(), view.size()), failure);
  buffer.consume(used);
  // Beast bounds what it is given at a time; the whole head may come in several parts.
  head_bytes_ += in_head ? used : 0;
  if (head_bytes_ > header_limit_) {
    failure = http::error::header_limit;
    return false;
  }
  if (failure == http::error::need_more) {
    failure = {};
    return false;
  }
  return !failure;
}

void RequestParser::on_request_impl(Verb, Text method, Text target, int version, Failure&) {
  version_ = version;
  arena_.add_start(to_view(method), to_view(target));
}

void RequestParser::on_field_impl(FieldName name, Text text, Text value, Failure&) {
  if (!in_head_) {
    return;  // a trailer: nothing of ours uses one
  }
  if (name == FieldName::transfer_encoding) {
    has_transfer_encoding_ = true;
  }
  arena_.add_field(to_view(text), to_view(value));
}

std::size_t RequestParser::on_body_impl(Text body, Failure&) {
  piece_ = to_view(body);
  return body.size();
}

std::size_t RequestParser::on_chunk_body_impl(std::uint64_t, Text body, Failure&) {
  piece_ = to_view(body);
  return body.size();
}

}  // namespace quad::net
