#include <gmock/gmock.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <span>
#include <thread>

#include "base/file.h"
#include "job/record.h"
#include "store/connection.h"
#include "store/schema.h"
#include "store/testing.h"

namespace quad::store {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using namespace std::string_literals;

class Sqlite : public testing::Test {
 public:
  void SetUp() override { reopen(); }

  void reopen() {
    store.reset();
    store = open_or_fail(folder.path());
    ASSERT_NE(store, nullptr);
    auto result = store->load();
    ASSERT_TRUE(result.ok()) << result.error().message;
    loaded = std::move(result).value();
  }

  BatchBuilder batch() const { return BatchBuilder(last); }

  void commit(const BatchBuilder& builder) {
    const Status status = store->commit(builder.batch());
    ASSERT_TRUE(status.ok()) << status.error().message;
    last = builder.last();
  }

  /// Changes the database behind the store's back.
  void tamper(const std::string& statements) {
    auto db = Connection::open(folder.path() / "quad.db", Connection::Mode::kWrite);
    ASSERT_TRUE(db.ok());
    const Status status = db->run(statements);
    ASSERT_TRUE(status.ok()) << status.error().message;
  }

  std::vector<std::int64_t> revisions(const EventFilter& filter) const {
    const auto events = store->events(filter);
    EXPECT_TRUE(events.ok());
    std::vector<std::int64_t> found;
    for (const job::Event& event : events.ok() ? *events : std::vector<job::Event>()) {
      found.push_back(event.revision.value());
    }
    return found;
  }

  TemporaryFolder folder;
  std::unique_ptr<Store> store;
  Loaded loaded;
  Revision last;
};

using Revisions = std::vector<std::int64_t>;

TEST_F(Sqlite, IsEmptyAndSoundAtFirst) {
  EXPECT_TRUE(loaded.jobs.empty());
  EXPECT_EQ(loaded.last_revision, Revision(0));
  EXPECT_TRUE(loaded.settings.empty());
  EXPECT_TRUE(loaded.client_keys.empty());
  EXPECT_EQ(faults_of(*store), "");
}

TEST_F(Sqlite, GivesBackWhatWasCommitted) {
  job::Job one = make_job(1, "ana", R"({"run":"python train.py"})");
  job::Job two = make_job(2, "ben");
  commit(batch().add(one, "key-1").add(two).set("drained/n1", "disk").set("token", "abc"));
  one.status = job::Status::kCancelled;
  one.ended_at = WallTime{5};
  one.message = "Cancelled by ana.";
  commit(batch()
             .change(one)
             .event("job.cancelled", one.id)
             .set("token", "")
             .set("drained/n1", "disk again"));

  reopen();
  ASSERT_EQ(loaded.jobs.size(), 2U);
  EXPECT_EQ(to_text(job::to_json(loaded.jobs[0])), to_text(job::to_json(one)));
  EXPECT_EQ(to_text(job::to_json(loaded.jobs[1])), to_text(job::to_json(two)));
  EXPECT_EQ(loaded.jobs[0].request->name, "train-1");
  EXPECT_EQ(loaded.jobs[0].request->shapes, one.request->shapes);
  EXPECT_EQ(loaded.last_revision, Revision(3));
  using Pairs = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(loaded.settings, (Pairs{{"drained/n1", "disk again"}}));
  ASSERT_EQ(loaded.client_keys.size(), 1U);
  EXPECT_EQ(loaded.client_keys[0].first, std::make_pair(std::string("ana"), std::string("key-1")));
  EXPECT_EQ(loaded.client_keys[0].second, JobId(1));
  EXPECT_EQ(faults_of(*store), "");
}

TEST_F(Sqlite, KeepsBodiesOnDiskAndReadsThemOnDemand) {
  const std::string body = R"({"script":")" + std::string(100'000, 'x') + R"("})";
  commit(batch().add(make_job(1, "ana", body)).add(make_job(2, "ana", "")));
  EXPECT_EQ(store->body(JobId(1)).value_or("?"), body);
  reopen();
  EXPECT_EQ(loaded.jobs[0].request->body, "");
  EXPECT_EQ(store->body(JobId(1)).value_or("?"), body);
  EXPECT_EQ(store->body(JobId(2)).value_or("?"), "");
  const auto missing = store->body(JobId(3));
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
}

TEST_F(Sqlite, KeepsEveryMemberOfAnEvent) {
  BatchBuilder builder = batch();
  builder.add(make_job(1));
  builder.event("rank.ended", JobId(1), "n1");
  job::Event& event = builder.batch().events[1];
  event.epoch = Epoch(2);
  event.rank = Rank(0);
  event.actor = "runner";
  event.message = "nul \0 and \xC3\xA9 and \xFF stay"s;
  event.data["code"] = 137;
  event.data["nested"] = json::object{{"a", json::array{1, 2.5, nullptr}}};
  commit(builder);
  reopen();
  const auto events = store->events({});
  ASSERT_TRUE(events.ok());
  ASSERT_EQ(events->size(), 2U);
  // Breaks when a member is added, so that nobody adds one without saying here that it survives the
  // store.
  const auto& [revision, at, job, epoch, rank, node, kind, actor, message, data] = (*events)[1];
  EXPECT_EQ(revision, event.revision);
  EXPECT_EQ(at, event.at);
  EXPECT_EQ(job, event.job);
  EXPECT_EQ(epoch, event.epoch);
  EXPECT_EQ(rank, event.rank);
  EXPECT_EQ(node, event.node);
  EXPECT_EQ(kind, event.kind);
  EXPECT_EQ(actor, event.actor);
  EXPECT_EQ(message, event.message);
  EXPECT_EQ(data, event.data);
  EXPECT_EQ((*events)[0].rank, Rank(-1));
  EXPECT_TRUE((*events)[0].data.empty());
}

TEST_F(Sqlite, FindsEventsByWhatTheyAreAbout) {
  commit(batch()
             .add(make_job(1))                     // 1
             .add(make_job(2))                     // 2
             .event("node.lost", JobId(0), "n1")   // 3
             .event("rank.ended", JobId(1), "n1")  // 4
             .event("rank.ended", JobId(2), "n2")  // 5
             .event("node.ready", JobId(0), "n2")  // 6
             .event("nodes", JobId(0))             // 7
             .event("job.failed", JobId(1)));      // 8
  EventFilter filter;
  EXPECT_EQ(revisions(filter), (Revisions{1, 2, 3, 4, 5, 6, 7, 8}));
  filter.job = JobId(1);
  EXPECT_EQ(revisions(filter), (Revisions{1, 4, 8}));
  filter.after = Revision(1);
  filter.newest_first = true;
  EXPECT_EQ(revisions(filter), (Revisions{8, 4}));
  filter.limit = 1;
  EXPECT_EQ(revisions(filter), (Revisions{8}));
  filter.newest_first = false;
  EXPECT_EQ(revisions(filter), (Revisions{4}));
  filter.limit = 0;
  EXPECT_EQ(revisions(filter), (Revisions{}));

  filter = {};
  filter.node = "n1";
  EXPECT_EQ(revisions(filter), (Revisions{3, 4}));
  filter.kind_prefix = "node.";
  EXPECT_EQ(revisions(filter), (Revisions{3}));
  filter.node.reset();
  EXPECT_EQ(revisions(filter), (Revisions{3, 6}));
  filter.job = JobId(0);
  EXPECT_EQ(revisions(filter), (Revisions{3, 6}));
  filter.job = JobId(2);
  filter.node = "n2";
  filter.kind_prefix = "rank.ended";
  EXPECT_EQ(revisions(filter), (Revisions{5}));
  filter.kind_prefix = "%";
  EXPECT_EQ(revisions(filter), (Revisions{}));
  filter = {};
  filter.after = Revision(8);
  EXPECT_EQ(revisions(filter), (Revisions{}));
}

TEST_F(Sqlite, ReadsOneJobsOrNodesEventsThroughAnIndex) {
  commit(batch().add(make_job(1)));
  auto db = Connection::open(folder.path() / "quad.db", Connection::Mode::kRead);
  ASSERT_TRUE(db.ok());
  const auto plan = [&](const std::string& condition) {
    auto query = Statement::prepare(
        db->get(), "EXPLAIN QUERY PLAN SELECT * FROM events WHERE revision > ?1" + condition +
                       " ORDER BY revision");
    return query.ok() && query->step().ok() ? std::string(query->text(3)) : std::string();
  };
  EXPECT_THAT(plan(" AND job = ?2 AND job > 0"), HasSubstr("events_by_job"));
  EXPECT_THAT(plan(" AND node = ?2 AND node <> ''"), HasSubstr("events_by_node"));
}

TEST_F(Sqlite, KeepsNothingOfABatchThatFailsAndWorksOn) {
  commit(batch().add(make_job(1), "key"));
  BatchBuilder bad = batch();
  bad.add(make_job(2))
      .set("a", "b")
      .change(make_job(1))
      .add(make_job(3), "key");  // its owner has used the key
  const Status clash = store->commit(bad.batch());
  ASSERT_FALSE(clash.ok());
  EXPECT_EQ(clash.error().code, ErrorCode::kInternal);
  const Status unknown = store->commit(batch().add(make_job(2)).change(make_job(9)).batch());
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().message, "Job 9 changed but was never recorded");
  reopen();
  EXPECT_EQ(loaded.jobs.size(), 1U);
  EXPECT_TRUE(loaded.settings.empty());
  EXPECT_EQ(loaded.last_revision, Revision(1));
  commit(batch().add(make_job(2), "other").set("a", "b"));
  EXPECT_EQ(faults_of(*store), "");
}

TEST_F(Sqlite, LetsTwoOwnersUseTheSameClientKey) {
  commit(batch().add(make_job(1, "ana"), "key").add(make_job(2, "ben"), "key"));
  reopen();
  EXPECT_EQ(loaded.client_keys.size(), 2U);
}

TEST_F(Sqlite, RefusesEventsWithAGapOrTwice) {
  commit(batch().add(make_job(1)));
  const Status gap = store->commit(BatchBuilder(Revision(2)).event("x", JobId(1)).batch());
  ASSERT_FALSE(gap.ok());
  EXPECT_EQ(gap.error().message, "Event 3 is to be recorded where number 2 is due");
  EXPECT_FALSE(store->commit(BatchBuilder(Revision(0)).event("x", JobId(1)).batch()).ok());
  reopen();
  EXPECT_FALSE(store->commit(BatchBuilder(Revision(0)).event("x", JobId(1)).batch()).ok());
  commit(batch().event("x", JobId(1)));
}

TEST_F(Sqlite, TakesAnEmptyBatch) {
  EXPECT_TRUE(store->commit(Batch{}).ok());
}

TEST_F(Sqlite, IsForItsOwnerAlone) {
  commit(batch().add(make_job(1)));
  const fs::path backup = folder.path() / "copy.db";
  ASSERT_TRUE(store->backup(backup).ok());
  const fs::path made = folder.path() / "a" / "b";
  const auto other = open_or_fail(made);
  const auto mode = [](const fs::path& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0 ? info.st_mode & 0777U : 0U;
  };
  EXPECT_EQ(mode(made), 0700U);
  for (const char* name : {"quad.db", "quad.db-wal", "quad.db-shm", "lock", "copy.db"}) {
    EXPECT_EQ(mode(folder.path() / name), 0600U) << name;
  }
}

TEST_F(Sqlite, RefusesASecondServerAndNamesTheFirst) {
  const auto second = open_sqlite(folder.path());
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kExists);
  EXPECT_THAT(second.error().message, HasSubstr(fmt::format("(process {} on ", ::getpid())));
  EXPECT_THAT(second.error().message, HasSubstr("stop it, or give this one another --data-dir"));
  commit(batch().add(make_job(1)));
  store.reset();
  EXPECT_NE(open_or_fail(folder.path()), nullptr);
}

TEST_F(Sqlite, WaitsForWhatAKilledServerHadJustForked) {
  // As between a fork and its exec: the lock is the child's as well.
  const pid_t child = ::fork();
  if (child == 0) {
    ::usleep(300'000);
    ::_exit(0);
  }
  store.reset();
  const auto next = open_sqlite(folder.path());
  EXPECT_TRUE(next.ok()) << next.error().message;
  ::waitpid(child, nullptr, 0);
}

TEST_F(Sqlite, RefusesASchemaOfANewerVersion) {
  store.reset();
  tamper("PRAGMA user_version=1000");
  const auto opened = open_sqlite(folder.path());
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(opened.error().message,
              HasSubstr("was written by a newer Quad (schema 1000, this one knows "));
}

TEST_F(Sqlite, RefusesAFileThatIsNoDatabase) {
  store.reset();
  ASSERT_TRUE(write_file_atomically(folder.path() / "quad.db", std::string(8192, 'x')).ok());
  const auto opened = open_sqlite(folder.path());
  ASSERT_FALSE(opened.ok());
  EXPECT_THAT(opened.error().message, HasSubstr("restore the last backup"));
}

TEST_F(Sqlite, NamesTheJobWhoseRecordCannotBeRead) {
  commit(batch().add(make_job(1)).add(make_job(2)));
  tamper("UPDATE jobs SET record='{\"id\":2' WHERE id=2");
  const auto result = store->load();
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr("The record of job 2 cannot be read"));
}

TEST_F(Sqlite, BacksUpWhileItWritesAndTheCopyIsWhole) {
  std::atomic<bool> stop = false;
  std::atomic<std::int64_t> committed = 0;
  std::thread writer([&] {
    Revision at;
    for (std::int64_t id = 1; !stop; ++id) {
      BatchBuilder builder(at);
      builder.add(make_job(id, "ana", std::string(4'000, 'b'))).set("last", std::to_string(id));
      const Status status = store->commit(builder.batch());
      if (!status.ok()) {
        ADD_FAILURE() << status.error().message;
        break;
      }
      at = builder.last();
      committed = id;
    }
  });
  for (int round = 0; round < 5; ++round) {
    const std::int64_t target = committed + 20;
    while (committed < target) {
      std::this_thread::yield();
    }
    const std::int64_t before = committed;
    TemporaryFolder other;
    const Status status = store->backup(other.path() / "quad.db");
    const std::int64_t after = committed + 1;  // one more may be durable but not yet counted
    ASSERT_TRUE(status.ok()) << status.error().message;
    EXPECT_EQ(std::distance(fs::directory_iterator(other.path()), {}), 1);
    OpenOptions options;
    options.accept_lost = true;  // nothing tells whether it is the newest
    const auto opened = open_sqlite(other.path(), options);
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    const std::unique_ptr<Store>& copy = opened->store;
    EXPECT_EQ(faults_of(*copy), "");
    const auto content = copy->load();
    ASSERT_TRUE(content.ok());
    const auto count = static_cast<std::int64_t>(content->jobs.size());
    EXPECT_GE(count, before);
    EXPECT_LE(count, after);
    EXPECT_EQ(content->settings[0].second, std::to_string(count));
    EXPECT_EQ(content->last_revision, Revision(count + 1));  // one tells of what was accepted
  }
  stop = true;
  writer.join();
}

TEST_F(Sqlite, ReplacesAnOlderBackupButNeverItself) {
  const fs::path copy = folder.path() / "copy.db";
  ASSERT_TRUE(store->backup(copy).ok());
  commit(batch().add(make_job(1)));
  ASSERT_TRUE(store->backup(copy).ok());
  auto db = Connection::open(copy, Connection::Mode::kWrite);
  ASSERT_TRUE(db.ok());
  EXPECT_EQ(db->integer("SELECT count(*) FROM jobs").value_or(-1), 1);
  const Status itself = store->backup(folder.path() / "." / "quad.db");
  ASSERT_FALSE(itself.ok());
  EXPECT_EQ(itself.error().code, ErrorCode::kInvalid);
  const Status nowhere = store->backup(folder.path() / "absent" / "copy.db");
  ASSERT_FALSE(nowhere.ok());
  EXPECT_EQ(nowhere.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(nowhere.error().message, HasSubstr("absent/copy.db failed: no file can be made in"));
  ASSERT_TRUE(make_folders(folder.path() / "folder").ok());
  EXPECT_FALSE(store->backup(folder.path() / "folder").ok());
  for (const auto& entry : fs::directory_iterator(folder.path())) {
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
  }
}

TEST_F(Sqlite, ServesManyReadersWhileItWrites) {
  constexpr std::int64_t kBatches = 100;
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      std::int64_t seen = 0;
      while (seen < 2 * kBatches) {
        EventFilter filter;
        filter.after = Revision(seen);
        const auto events = store->events(filter);
        ASSERT_TRUE(events.ok()) << events.error().message;
        for (const job::Event& event : *events) {
          ASSERT_EQ(event.revision.value(), ++seen);
          const auto body = store->body(event.job);
          ASSERT_TRUE(body.ok()) << body.error().message;
        }
        ASSERT_EQ(seen % 2, 0) << "half of a batch was seen";
      }
    });
  }
  for (std::int64_t id = 1; id <= kBatches; ++id) {
    commit(batch().add(make_job(id)).event("job.more", JobId(id)));
  }
  for (std::thread& reader : readers) {
    reader.join();
  }
}

// Faults that check() finds.

class Faults : public Sqlite {
 protected:
  void SetUp() override {
    Sqlite::SetUp();
    commit(
        batch().add(make_job(1), "key").add(make_job(2)).add(make_job(3)).event("job.x", JobId(2)));
  }
};

TEST_F(Faults, AreNoneInWhatTheStoreWrote) {
  EXPECT_EQ(faults_of(*store), "");
}

TEST_F(Faults, AreAJobThatIsMissing) {
  tamper("DELETE FROM jobs WHERE id=1");
  EXPECT_EQ(faults_of(*store),
            "Job 1 is missing\n"
            "There is a body for job 1, which is missing\n"
            "There are events of job 1, which is missing\n"
            "There is a client key for job 1, which is missing");
}

TEST_F(Faults, AreEventsAndBodiesThatAreMissing) {
  tamper("DELETE FROM events WHERE revision IN (2, 3); DELETE FROM bodies WHERE job=3");
  EXPECT_EQ(faults_of(*store),
            "The body of job 3's request is missing\n"
            "Job 3 has no event\n"
            "The events 2 to 3 are missing");
}

TEST_F(Faults, AreRecordsThatCannotBe) {
  tamper(
      "UPDATE jobs SET record='{\"id\":1,\"status\":\"RUNNING\"}', owner='eve' WHERE id=1;"
      "UPDATE jobs SET record='{' WHERE id=2; UPDATE events SET data='[1]' WHERE revision=4");
  EXPECT_THAT(faults_of(*store),
              HasSubstr("Job 1 is not sound: it is RUNNING without a live attempt"));
  EXPECT_THAT(
      faults_of(*store),
      HasSubstr("Job 1 has the status \"RUNNING\" in its record and \"PENDING\" in its row"));
  EXPECT_THAT(faults_of(*store),
              HasSubstr("Job 1 has the owner \"ana\" in its record and \"eve\" in its row"));
  EXPECT_THAT(faults_of(*store), HasSubstr("The record of job 2 cannot be read"));
  EXPECT_THAT(faults_of(*store), HasSubstr("The data of event 4 cannot be read"));
}

TEST_F(Faults, AreADamagedFile) {
  // A row that its index does not know: what a damaged page looks like from above.
  tamper(
      "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql=replace(sql, 'job > 0', 'job > 1') "
      "WHERE name='events_by_job'; PRAGMA writable_schema=OFF");
  EXPECT_THAT(faults_of(*store), HasSubstr("The database file is damaged: "));
}

// Migration, from a made-up older version to a made-up newer one.

TEST(Migration, BringsAnOlderDatabaseToThisVersionStepByStep) {
  TemporaryFolder folder;
  const fs::path path = folder.path() / "x.db";
  auto db = Connection::open(path, Connection::Mode::kWrite);
  ASSERT_TRUE(db.ok());
  const std::array<const char*, 3> steps = {
      "CREATE TABLE t (a INTEGER)", "ALTER TABLE t ADD COLUMN b INTEGER", "UPDATE t SET b = a + 1"};
  const std::span<const char* const> all(steps);
  ASSERT_TRUE(migrate(*db, path, all.first(1)).ok());
  ASSERT_TRUE(db->run("INSERT INTO t VALUES (41)").ok());
  ASSERT_TRUE(migrate(*db, path, all).ok());
  EXPECT_EQ(db->integer("SELECT b FROM t").value_or(-1), 42);
  EXPECT_EQ(db->integer("PRAGMA user_version").value_or(-1), 3);
  ASSERT_TRUE(db->run("UPDATE t SET b = 0").ok());
  ASSERT_TRUE(migrate(*db, path, all).ok());
  EXPECT_EQ(db->integer("SELECT b FROM t").value_or(-1), 0) << "a step ran twice";
  EXPECT_FALSE(migrate(*db, path, all.first(2)).ok());
}

TEST(Migration, KeepsNothingOfAStepThatFails) {
  TemporaryFolder folder;
  const fs::path path = folder.path() / "x.db";
  auto db = Connection::open(path, Connection::Mode::kWrite);
  ASSERT_TRUE(db.ok());
  const std::array<const char*, 2> steps = {
      "CREATE TABLE t (a INTEGER)", "CREATE TABLE u (a INTEGER); INSERT INTO absent VALUES (1)"};
  const Status status = migrate(*db, path, steps);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("to schema 2: "));
  EXPECT_EQ(db->integer("PRAGMA user_version").value_or(-1), 1);
  EXPECT_EQ(db->integer("SELECT count(*) FROM sqlite_schema").value_or(-1), 1);
}

}  // namespace
}  // namespace quad::store
