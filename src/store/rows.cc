#include "store/rows.h"

#include <fmt/format.h>

#include <array>
#include <boost/json/monotonic_resource.hpp>
#include <boost/json/parse.hpp>
#include <memory>
#include <utility>

#include "job/record.h"

namespace quad::store {

namespace {

/// As parse_json_object(), but the object lives in `storage`.
Result<json::object> parse_in(json::storage_ptr storage, std::string_view text) {
  json::parse_options options;
  options.allow_invalid_utf8 = true;
  boost::system::error_code failure;
  json::value value = json::parse(text, failure, std::move(storage), options);
  if (failure || !value.is_object()) {
    return parse_json_object(text);  // which says what is wrong
  }
  return std::move(value.get_object());
}

Result<job::Job> parse_job(std::string_view record, std::string_view request) {
  // A server reads thousands of these when it starts, and keeps nothing of the JSON: most fit in
  // here.
  std::array<unsigned char, 16384> buffer;  // NOLINT(cppcoreguidelines-pro-type-member-init)
  json::monotonic_resource memory(buffer.data(), buffer.size());
  QUAD_ASSIGN(const json::object request_object, parse_in(&memory, request));
  QUAD_ASSIGN(job::Request parsed, job::request_from_json(request_object));
  QUAD_ASSIGN(const json::object object, parse_in(&memory, record));
  return job::job_from_json(object, std::make_shared<job::Request>(std::move(parsed)));
}

}  // namespace

Result<job::Job> job_from_texts(JobId id, std::string_view record, std::string_view request) {
  Result<job::Job> job = parse_job(record, request);
  if (!job.ok()) {
    return error(job.error().code, fmt::format("The record of job {} cannot be read: {}",
                                               id.value(), job.error().message));
  }
  if (job->id != id) {
    return error(ErrorCode::kInvalid, fmt::format("The record of job {} says that it is job {}",
                                                  id.value(), job->id.value()));
  }
  return job;
}

Result<job::Event> event_from_row(const Statement& row) {
  job::Event event;
  event.revision = Revision(row.integer(0));
  event.at = WallTime{row.integer(1)};
  event.job = JobId(row.integer(2));
  event.epoch = Epoch(static_cast<std::int32_t>(row.integer(3)));
  event.rank = Rank(static_cast<std::int32_t>(row.integer(4)));
  event.node = row.text(5);
  event.kind = row.text(6);
  event.actor = row.text(7);
  event.message = row.text(8);
  if (const std::string_view data = row.text(9); !data.empty()) {
    auto parsed = parse_json_object(data);
    if (!parsed.ok()) {
      return error(parsed.error().code,
                   fmt::format("The data of event {} cannot be read: {}", event.revision.value(),
                               parsed.error().message));
    }
    event.data = std::move(parsed).value();
  }
  return event;
}

}  // namespace quad::store
