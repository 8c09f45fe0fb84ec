#include "job/record.h"

#include <gtest/gtest.h>

#include <array>

namespace quad::job {
namespace {

// Every member of a record is compared by name. The structured bindings break when a member is
// added, so that nobody adds one without saying here that it survives the store.

void expect_same(const pool::Resources& a, const pool::Resources& b) {
  EXPECT_TRUE(a == b);
}

void expect_same(const RankEnd& a, const RankEnd& b) {
  const auto& [how, code, by_quad, out_of_memory, in_setup, confirmed, verdict, detail, at] = a;
  EXPECT_EQ(how, b.how);
  EXPECT_EQ(code, b.code);
  EXPECT_EQ(by_quad, b.by_quad);
  EXPECT_EQ(out_of_memory, b.out_of_memory);
  EXPECT_EQ(in_setup, b.in_setup);
  EXPECT_EQ(confirmed, b.confirmed);
  EXPECT_EQ(verdict, b.verdict);
  EXPECT_EQ(detail, b.detail);
  EXPECT_EQ(at, b.at);
}

void expect_same(const RankRecord& a, const RankRecord& b) {
  const auto& [holding, phase, nonce, address, port, pid, taken, end] = a;
  EXPECT_TRUE(holding == b.holding);
  EXPECT_EQ(phase, b.phase);
  EXPECT_EQ(nonce, b.nonce);
  EXPECT_EQ(address, b.address);
  EXPECT_EQ(port, b.port);
  EXPECT_EQ(pid, b.pid);
  EXPECT_EQ(taken, b.taken);
  ASSERT_EQ(end.has_value(), b.end.has_value());
  if (end) {
    expect_same(*end, *b.end);
  }
}

void expect_same(const Attempt& a, const Attempt& b) {
  const auto& [epoch, ranks, shape, placed_at, running_at, ended_at, fence_wait, lease, resume,
               checkpoint_step, wrote_checkpoint, stopping, verdict, reason] = a;
  EXPECT_EQ(epoch, b.epoch);
  ASSERT_EQ(ranks.size(), b.ranks.size());
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    expect_same(ranks[i], b.ranks[i]);
  }
  EXPECT_EQ(shape, b.shape);
  EXPECT_EQ(placed_at, b.placed_at);
  EXPECT_EQ(running_at, b.running_at);
  EXPECT_EQ(ended_at, b.ended_at);
  EXPECT_EQ(fence_wait, b.fence_wait);
  EXPECT_EQ(lease, b.lease);
  ASSERT_EQ(resume.has_value(), b.resume.has_value());
  if (resume) {
    const auto& [path, step, note] = *resume;
    EXPECT_EQ(path, b.resume->path);
    EXPECT_EQ(step, b.resume->step);
    EXPECT_EQ(note, b.resume->note);
  }
  EXPECT_EQ(checkpoint_step, b.checkpoint_step);
  EXPECT_EQ(wrote_checkpoint, b.wrote_checkpoint);
  EXPECT_EQ(stopping, b.stopping);
  EXPECT_EQ(verdict, b.verdict);
  EXPECT_EQ(reason, b.reason);
}

void expect_same(const Job& a, const Job& b) {
  const auto& [id, request, status, cause, message, submitted_at, started_at, ended_at, recoveries,
               recoveries_without_progress, restarts_on_errors, exit_code, avoid_nodes,
               cancelled_by, attempts] = a;
  EXPECT_EQ(id, b.id);
  EXPECT_EQ(request, b.request);
  EXPECT_EQ(status, b.status);
  EXPECT_EQ(cause, b.cause);
  EXPECT_EQ(message, b.message);
  EXPECT_EQ(submitted_at, b.submitted_at);
  EXPECT_EQ(started_at, b.started_at);
  EXPECT_EQ(ended_at, b.ended_at);
  EXPECT_EQ(recoveries, b.recoveries);
  EXPECT_EQ(recoveries_without_progress, b.recoveries_without_progress);
  EXPECT_EQ(restarts_on_errors, b.restarts_on_errors);
  EXPECT_EQ(exit_code, b.exit_code);
  EXPECT_EQ(avoid_nodes, b.avoid_nodes);
  EXPECT_EQ(cancelled_by, b.cancelled_by);
  ASSERT_EQ(attempts.size(), b.attempts.size());
  for (std::size_t i = 0; i < attempts.size(); ++i) {
    expect_same(attempts[i], b.attempts[i]);
  }
}

void expect_same(const RecoveryPolicy& a, const RecoveryPolicy& b) {
  const auto& [max_restarts_on_errors, recover_on_exit_codes, max_without_progress, strict_fence] =
      a;
  EXPECT_EQ(max_restarts_on_errors, b.max_restarts_on_errors);
  EXPECT_EQ(recover_on_exit_codes, b.recover_on_exit_codes);
  EXPECT_EQ(max_without_progress, b.max_without_progress);
  EXPECT_EQ(strict_fence, b.strict_fence);
}

void expect_same(const Request& a, const Request& b) {
  const auto& [name, owner, by_server_user, kind, cluster, ranks, shapes, priority, recovery,
               exclude_nodes, stop_grace, max_duration, body] = a;
  EXPECT_EQ(name, b.name);
  EXPECT_EQ(owner, b.owner);
  EXPECT_EQ(by_server_user, b.by_server_user);
  EXPECT_EQ(kind, b.kind);
  EXPECT_EQ(cluster, b.cluster);
  EXPECT_EQ(ranks, b.ranks);
  ASSERT_EQ(shapes.size(), b.shapes.size());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    expect_same(shapes[i].per_rank, b.shapes[i].per_rank);
    EXPECT_EQ(shapes[i].gpu_model, b.shapes[i].gpu_model);
    EXPECT_EQ(shapes[i].engine, b.shapes[i].engine);
  }
  EXPECT_EQ(priority, b.priority);
  expect_same(recovery, b.recovery);
  EXPECT_EQ(exclude_nodes, b.exclude_nodes);
  EXPECT_EQ(stop_grace, b.stop_grace);
  EXPECT_EQ(max_duration, b.max_duration);
  EXPECT_EQ(body, b.body);
}

/// A request in which no member has its default.
Request full_request() {
  Request request;
  request.name = "träin \"big\"\nmodel";
  request.owner = "ana";
  request.by_server_user = true;
  request.kind = Kind::kHolder;
  request.cluster = "dev";
  request.ranks = 2;
  request.shapes = {{{64'500, 512LL << 30, 8, {{"rdma/hca", 2}}}, "H100", "west"}, {{1, 2, 0}, ""}};
  request.priority = -5;
  request.recovery = {4, {42, 143}, 9, true};
  request.exclude_nodes = {NodeId("n7"), NodeId("n8")};
  request.stop_grace = Millis(1);
  request.max_duration = Millis(86'400'000);
  request.body = R"({"run":"python \"train.py\""})";
  return request;
}

RankRecord full_rank(std::int32_t index) {
  RankRecord rank;
  rank.holding = {
      NodeId("n" + std::to_string(index)), {64'500, 512LL << 30, 2}, {index, index + 1}};
  rank.phase = RankPhase::kEnded;
  rank.nonce = "0123abcd";
  rank.address = "10.0.0.7";
  rank.port = 29'500;
  rank.pid = 4711;
  rank.taken = Taken{Verdict::kDrained, "evicted from node n"};
  rank.end =
      RankEnd{RankEnd::How::kSignaled, 9,           true, true, true, false, Verdict::kEvicted,
              "its node went dark",    WallTime{77}};
  return rank;
}

/// A job in which no member has its default.
Job full_job(std::shared_ptr<const Request> request) {
  Job job;
  job.id = JobId(17);
  job.request = std::move(request);
  job.status = Status::kFailed;
  job.cause = Cause::kHardware;
  job.message = "Failed: node n1 was lost.";
  job.submitted_at = WallTime{1'700'000'000'001};
  job.started_at = WallTime{1'700'000'000'002};
  job.ended_at = WallTime{1'700'000'000'003};
  job.recoveries = 5;
  job.recoveries_without_progress = 3;
  job.restarts_on_errors = 2;
  job.exit_code = 137;
  job.avoid_nodes = {NodeId("n1")};
  job.cancelled_by = "ben";
  Attempt attempt;
  attempt.epoch = Epoch(1);
  attempt.ranks = {full_rank(1), full_rank(3)};
  attempt.shape = 1;
  attempt.placed_at = WallTime{11};
  attempt.running_at = WallTime{12};
  attempt.ended_at = WallTime{13};
  attempt.fence_wait = Millis(5'000);
  attempt.lease = Millis(30'000);
  attempt.resume = Resume{"/ckpt/step-40", 40, "passed over step 50"};
  attempt.checkpoint_step = 0;
  attempt.wrote_checkpoint = true;
  attempt.stopping = true;
  attempt.verdict = Verdict::kHardware;
  attempt.reason = "node n1 was lost";
  job.attempts.push_back(std::move(attempt));
  return job;
}

/// Through text, as the store does it.
json::object through_text(const json::object& object) {
  return parse_json_object(to_text(object)).value();
}

Result<Job> reread(const Job& job) {
  return job_from_json(through_text(to_json(job)), job.request);
}

TEST(Record, KeepsEveryMemberOfARequest) {
  const Request request = full_request();
  const auto read = request_from_json(through_text(to_json(request)));
  ASSERT_TRUE(read.ok()) << read.error().message;
  expect_same(request, *read);
}

TEST(Record, KeepsARequestOfDefaultsAndWritesItShort) {
  Request request;
  request.shapes = {Shape{}};
  const auto read = request_from_json(through_text(to_json(request)));
  ASSERT_TRUE(read.ok()) << read.error().message;
  expect_same(request, *read);
  EXPECT_EQ(to_text(to_json(request)), R"({"name":"","owner":"","shapes":[{}]})");
}

TEST(Record, KeepsEveryMemberOfAJob) {
  const Job job = full_job(std::make_shared<Request>(full_request()));
  const auto read = reread(job);
  ASSERT_TRUE(read.ok()) << read.error().message;
  expect_same(job, *read);
}

TEST(Record, KeepsAFreshJobAndAFreshAttempt) {
  Job job;
  job.id = JobId(1);
  job.request = std::make_shared<Request>(full_request());
  auto read = reread(job);
  ASSERT_TRUE(read.ok()) << read.error().message;
  expect_same(job, *read);
  job.attempts.emplace_back().ranks.emplace_back();
  job.attempts.back().resume.emplace();
  read = reread(job);
  ASSERT_TRUE(read.ok()) << read.error().message;
  expect_same(job, *read);
}

TEST(Record, KeepsEveryEnumerator) {
  Job job = full_job(std::make_shared<Request>(full_request()));
  for (int i = 0; i < 8; ++i) {
    job.status = static_cast<Status>(i);
    job.cause = static_cast<Cause>(i);
    job.attempts[0].verdict = static_cast<Verdict>(i);
    job.attempts[0].ranks[0].phase = static_cast<RankPhase>(i % 6);
    job.attempts[0].ranks[0].end->how = static_cast<RankEnd::How>(i % 5);
    const auto read = reread(job);
    ASSERT_TRUE(read.ok()) << read.error().message;
    expect_same(job, *read);
  }
}

TEST(Record, DoesNotGuessAStatusThatItDoesNotKnow) {
  const Job job = full_job(std::make_shared<Request>(full_request()));
  json::object object = to_json(job);
  object["status"] = "PAUSED";
  const auto read = job_from_json(object, job.request);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().message, "The record of job 17 has the status \"PAUSED\", which is none");
}

TEST(Record, IgnoresMembersThatItDoesNotKnow) {
  const Job job = full_job(std::make_shared<Request>(full_request()));
  json::object object = to_json(job);
  object["mood"] = "cheerful";
  const auto read = job_from_json(object, job.request);
  ASSERT_TRUE(read.ok());
  expect_same(job, *read);
}

TEST(Record, NeverTakesAnEndWithoutAHowForASuccess) {
  EXPECT_EQ(rank_end_from_json({}).how, RankEnd::How::kGone);
  EXPECT_EQ(rank_end_from_json({{"how", "evaporated"}}).how, RankEnd::How::kGone);
}

TEST(Record, RefusesARequestWithoutShapes) {
  EXPECT_FALSE(request_from_json({{"name", "x"}}).ok());
  EXPECT_FALSE(request_from_json({{"shapes", json::array{json::object{}}}, {"ranks", 0}}).ok());
}

TEST(Record, ShowsReadersAnEventWithoutWhatItIsNotAbout) {
  Event event;
  event.revision = Revision(3);
  event.at = WallTime{1'000};
  event.kind = "node.lost";
  event.actor = "control";
  event.message = "Node n1 is lost.";
  event.node = "n1";
  EXPECT_EQ(
      to_text(to_json(event)),
      R"({"revision":3,"at":"1970-01-01T00:00:01.000Z","node":"n1","kind":"node.lost","actor":"control",)"
      R"("message":"Node n1 is lost."})");
  event.job = JobId(4);
  event.epoch = Epoch(2);
  event.rank = Rank(0);
  event.data["code"] = 7;
  const json::object object = to_json(event);
  EXPECT_EQ(get_int(object, "job"), 4);
  EXPECT_EQ(get_int(object, "epoch"), 2);
  EXPECT_EQ(get_int(object, "rank", -5), 0);
  EXPECT_EQ(get_int(*get_object(object, "data"), "code"), 7);
}

// What check() says of jobs that cannot be.

class Soundness : public testing::Test {
 protected:
  Job job_ = full_job(std::make_shared<Request>(full_request()));
};

TEST_F(Soundness, HoldsForAJobThatRanItsCourse) {
  EXPECT_EQ(check(job_), "");
}

TEST_F(Soundness, WantsARequest) {
  job_.request = nullptr;
  EXPECT_EQ(check(job_), "it has no request");
}

TEST_F(Soundness, WantsEpochsWithoutGaps) {
  job_.attempts[0].epoch = Epoch(2);
  EXPECT_EQ(check(job_), "attempt 1 is numbered 2");
}

TEST_F(Soundness, WantsAllRanks) {
  job_.attempts[0].ranks.pop_back();
  EXPECT_EQ(check(job_), "attempt 1 has 1 ranks instead of 2");
}

TEST_F(Soundness, WantsAShapeOfTheRequest) {
  job_.attempts[0].shape = 2;
  EXPECT_EQ(check(job_), "attempt 1 was placed with shape 2, of 2 that there are");
}

TEST_F(Soundness, WantsNothingLiveOnceItIsOver) {
  job_.attempts[0].ended_at.reset();
  EXPECT_EQ(check(job_), "attempt 1 and its ranks disagree on whether it ended");
  job_.attempts[0].ranks[1].end.reset();
  job_.attempts[0].ranks[1].phase = RankPhase::kRunning;
  EXPECT_EQ(check(job_), "it is FAILED and yet not over");
}

TEST_F(Soundness, WantsOnlyTheLastAttemptToBeLive) {
  job_.attempts.push_back(job_.attempts[0]);
  job_.attempts[1].epoch = Epoch(2);
  EXPECT_EQ(check(job_), "");
  job_.attempts[0].ended_at.reset();
  job_.attempts[0].ranks[0].end.reset();
  job_.attempts[0].ranks[0].phase = RankPhase::kRunning;
  EXPECT_EQ(check(job_), "attempt 1 is live but not the last");
}

TEST_F(Soundness, WantsAPhaseThatFitsTheEnd) {
  job_.attempts[0].ranks[0].phase = RankPhase::kRunning;
  EXPECT_EQ(check(job_), "a rank of attempt 1 is running and has an end");
}

TEST_F(Soundness, WantsALiveAttemptWhileItRuns) {
  job_.status = Status::kRunning;
  EXPECT_EQ(check(job_), "it is RUNNING without a live attempt");
  job_.status = Status::kPending;
  EXPECT_EQ(check(job_), "it is PENDING and has an attempt");
}

TEST_F(Soundness, KnowsTheLiveAttemptAndTheEpoch) {
  EXPECT_EQ(job_.live(), nullptr);
  EXPECT_EQ(job_.epoch(), Epoch(1));
  job_.attempts[0].ended_at.reset();
  EXPECT_EQ(job_.live(), &job_.attempts[0]);
  EXPECT_EQ(Job{}.epoch(), Epoch(0));
  EXPECT_EQ(Job{}.live(), nullptr);
}

TEST_F(Soundness, GivesSkyPilotsNameOfAFailure) {
  constexpr std::array kExpected = {"FAILED", "FAILED", "FAILED_SETUP",       "FAILED_CONTROLLER",
                                    "FAILED", "FAILED", "FAILED_NO_RESOURCE", "FAILED_CONTROLLER"};
  for (std::size_t i = 0; i < kExpected.size(); ++i) {
    job_.cause = static_cast<Cause>(i);
    EXPECT_EQ(skypilot_status(job_), kExpected[i]) << to_string(job_.cause);
  }
  job_.status = Status::kSucceeded;
  EXPECT_EQ(skypilot_status(job_), "SUCCEEDED");
}

}  // namespace
}  // namespace quad::job
