#include "store/provenance.h"

#include <gmock/gmock.h>

#include <fstream>

#include "base/file.h"
#include "store/testing.h"

namespace quad::store {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::string kOurs(32, 'a');
const std::string kTheirs(32, 'b');
const std::string kFresh(32, 'f');

/// A folder in which all is well: 40 jobs, 120 events.
class Provenance : public testing::Test {
 public:
  Provenance() {
    around.has_database = true;
    around.mark = Mark{kOurs, 1, 40, 120, 7};
    around.places = {{"logs", "/d/logs", "logs", kOurs, 1, 40},
                     {"hot", "/d/hot", "hot", kOurs, 1, 39}};
    contents.schema = 1;
    contents.identity.life = kOurs;
    contents.identity.generation = 1;
    contents.identity.keys = {{"attempt.key", "check"}};
    contents.identity.places = {{"logs", "logs"}, {"hot", "hot"}};
    contents.last_job = 40;
    contents.last_revision = 120;
    keys = {{"attempt.key", "check"}};
  }

  [[nodiscard]] Judgement judged() const { return judge(around, contents, keys, kFresh); }
  /// Of what is not well.
  [[nodiscard]] std::string findings() const {
    return fmt::format("{}", fmt::join(judged().findings, "; "));
  }

  Surroundings around;
  Contents contents;
  std::vector<KeyOnDisk> keys;
};

TEST_F(Provenance, FindsNothingWhereAllBelongsTogether) {
  const Judgement all = judged();
  EXPECT_THAT(all.findings, IsEmpty());
  EXPECT_THAT(all.notes, IsEmpty());
  EXPECT_EQ(all.identity.life, kOurs);
  EXPECT_EQ(all.identity.generation, 1);
  EXPECT_EQ(all.identity.taken_back, TakenBack::kNo);
  EXPECT_EQ(all.last_job, 40);
}

TEST_F(Provenance, IsNewWhereNothingEverWas) {
  around = {};
  around.places = {{"logs", "/d/logs", "logs"}, {"hot", "/d/hot", "hot"}};
  contents = {};
  keys = {{"attempt.key", "check", false}};
  const Judgement all = judged();
  EXPECT_THAT(all.findings, IsEmpty());
  EXPECT_EQ(all.identity.life, kFresh);
  EXPECT_EQ(all.identity.keys.at("attempt.key"), "check");
}

TEST_F(Provenance, TakesUpAFirstStartThatWasBrokenOff) {
  around.mark = Mark{kOurs, 0, 0, 0, 7};
  around.places = {{"logs", "/d/logs", "logs", kOurs}, {"hot", "/d/hot", "hot"}};
  keys = {{"attempt.key", "check", false}};
  for (const bool has_database : {false, true}) {
    around.has_database = has_database;
    contents = {};
    contents.schema = has_database ? 1 : 0;
    EXPECT_THAT(judged().findings, IsEmpty());
    EXPECT_EQ(judged().identity.life, kOurs);
  }
}

TEST_F(Provenance, GivesTheRecordsOfAnOlderVersionALife) {
  around.mark.reset();
  for (Place& place : around.places) {
    place.life.clear();
  }
  contents.identity = {};
  EXPECT_THAT(judged().findings, IsEmpty());
  EXPECT_EQ(judged().identity.life, kFresh);
  EXPECT_EQ(judged().identity.generation, 0);
  keys[0].present = false;
  EXPECT_THAT(judged().findings, ElementsAre("attempt.key is missing"));
}

TEST_F(Provenance, SeesADatabaseThatIsGoneOrEmpty) {
  contents = {};
  around.has_database = false;
  EXPECT_THAT(findings(), AllOf(HasSubstr("quad.db is missing"), HasSubstr("job 40")));
  around.has_log = true;
  EXPECT_THAT(findings(), HasSubstr("missing, without which its log is nothing"));
  around.has_database = true;
  EXPECT_THAT(findings(), HasSubstr("quad.db is empty"));
  EXPECT_EQ(judged().identity.life, kOurs);
  EXPECT_EQ(judged().identity.generation, 2);
  EXPECT_EQ(judged().last_job, 40);
  EXPECT_EQ(judged().last_revision, 120);

  // The keys alone show that the folder is not new.
  around.mark.reset();
  around.places.clear();
  EXPECT_THAT(findings(), HasSubstr("quad.db is empty"));
}

TEST_F(Provenance, SeesADatabaseThatIsBehindItsMark) {
  contents.last_job = 19;
  contents.last_revision = 57;
  EXPECT_THAT(findings(), HasSubstr("ends with job 19 and event 57, where job 40 and event 120"));
  EXPECT_EQ(judged().last_job, 40);
  EXPECT_EQ(judged().last_revision, 120);
  EXPECT_EQ(judged().identity.generation, 2);
  EXPECT_EQ(judged().identity.taken_back, TakenBack::kBehind);
}

TEST_F(Provenance, SeesACopyFromBeforeRecordsWereTakenBack) {
  around.mark->generation = 2;
  EXPECT_THAT(findings(), HasSubstr("from before records were last taken back"));
  around.mark->generation = 1;
  around.places[1].generation = 2;
  EXPECT_THAT(findings(), HasSubstr("hot is of later records"));
}

TEST_F(Provenance, TellsOfAMarkThatAPowerCutLeftBehind) {
  around.mark->revision = 110;
  EXPECT_THAT(judged().findings, IsEmpty());
  EXPECT_THAT(judged().notes, ElementsAre(HasSubstr("10 events behind")));
}

TEST_F(Provenance, SeesAMarkThatIsMissingOrDamaged) {
  around.mark.reset();
  EXPECT_THAT(findings(), HasSubstr("records.mark, which tells how far they had got, is missing"));
  around.mark_damaged = true;
  EXPECT_THAT(findings(), HasSubstr("is damaged"));
}

TEST_F(Provenance, SeesOtherRecords) {
  contents.identity.life = kTheirs;
  EXPECT_THAT(findings(), HasSubstr("other records (bbbbbbbb) than were kept here (aaaaaaaa)"));
  const Judgement all = judged();
  EXPECT_EQ(all.identity.life, kTheirs);
  EXPECT_EQ(all.identity.taken_back, TakenBack::kStrange);
  EXPECT_EQ(all.strange.size(), 2U);  // logs and hot are not theirs
  EXPECT_EQ(all.last_job, 40);
}

TEST_F(Provenance, SeesFoldersOfJobsThatTheRecordsDoNotKnow) {
  around.places[0].last_job = 47;
  EXPECT_THAT(findings(), HasSubstr("logs has job 47, and quad.db ends with job 40"));
  EXPECT_EQ(judged().last_job, 47);
  around.last_runner = 48;
  EXPECT_EQ(judged().last_job, 48);
}

TEST_F(Provenance, SeesFoldersThatAreOthersOrNotThereAnyMore) {
  around.places[1].life = kTheirs;
  EXPECT_THAT(findings(), HasSubstr("hot (/d/hot) is of other records (bbbbbbbb)"));
  around.places[1].life.clear();
  EXPECT_THAT(findings(), HasSubstr("as when its disk is not mounted"));
  // A folder that was never used for it may be empty, and no more.
  around.places[1] = {"hot", "/fast/hot", "/fast/hot"};
  EXPECT_THAT(judged().findings, IsEmpty());
  EXPECT_EQ(judged().identity.places.at("hot"), "/fast/hot");
  around.places[1].last_job = 3;
  EXPECT_THAT(findings(), HasSubstr("does not say that they are of these records"));
}

TEST_F(Provenance, SeesKeysThatAreMissingOrOthers) {
  keys[0].present = false;
  EXPECT_EQ(findings(), "attempt.key is missing");
  keys = {{"attempt.key", "another"}};
  EXPECT_EQ(findings(), "attempt.key is not the key of these records");
}

TEST_F(Provenance, NeverGivesOutNumbersThatWereLostOnce) {
  contents.identity.lost_job = 60;
  contents.identity.lost_revision = 200;
  EXPECT_EQ(judged().last_job, 60);
  EXPECT_EQ(judged().last_revision, 200);
}

TEST(Places, AreReadForTheGreatestJobAndNothingElse) {
  const TemporaryFolder folder;
  for (const char* made : {"logs/3/1", "logs/12/2", "logs/.of-x/90/1", "hot/14/e2",
                           "hot/14/e2000000000", "hot/20240101", "hot/7000/src",
                           "hot/123456789012/e1", "nodes/local-1/17-2-0", "nodes/local-2/9-1-1"}) {
    fs::create_directories(folder.path() / made);
  }
  OpenOptions options;
  options.hot = folder.path() / "hot";
  const Surroundings around = look_around(folder.path(), options);
  ASSERT_EQ(around.places.size(), 2U);
  EXPECT_EQ(around.places[0].last_job, 12);
  EXPECT_EQ(around.places[1].last_job, 14);
  EXPECT_EQ(around.last_runner, 17);
  EXPECT_EQ(last_epoch_in({folder.path() / "logs", folder.path() / "hot"}, JobId(12)), Epoch(2));
  EXPECT_EQ(last_epoch_in({folder.path() / "logs", folder.path() / "hot"}, JobId(14)), Epoch(2));
  EXPECT_EQ(last_epoch_in({folder.path() / "logs"}, JobId(5)), Epoch(0));
}

TEST(MarkFile, IsReadAsItWasWrittenAndNeverGoesBack) {
  const TemporaryFolder folder;
  EXPECT_FALSE(read_mark(folder.path())->has_value());
  auto made = MarkFile::create(folder.path(), {kOurs, 3, 5, 9});
  ASSERT_TRUE(made.ok());
  made->advance(7, 20);
  made->advance(6, 15);
  const auto read = read_mark(folder.path());
  ASSERT_TRUE(read.ok() && read->has_value());
  EXPECT_EQ((*read)->life, kOurs);
  EXPECT_EQ((*read)->generation, 3);
  EXPECT_EQ((*read)->job, 7);
  EXPECT_EQ((*read)->revision, 20);
  EXPECT_TRUE(is_original(folder.path(), **read));
}

TEST(MarkFile, TellsACopyAndWhateverIsNotWhole) {
  const TemporaryFolder folder;
  ASSERT_TRUE(MarkFile::create(folder.path(), {kOurs, 0, 5, 9}).ok());
  const std::string text = read_file(mark_path(folder.path())).value();
  for (std::size_t i = 0; i + 1 < text.size(); i += 5) {
    std::string changed = text;
    changed[i] = changed[i] == '7' ? '8' : '7';
    ASSERT_TRUE(write_file_atomically(mark_path(folder.path()), changed).ok());
    EXPECT_FALSE(read_mark(folder.path()).ok()) << changed;
  }
  for (const std::string& cut : {std::string(), text.substr(0, 50), text + "\n"}) {
    ASSERT_TRUE(write_file_atomically(mark_path(folder.path()), cut).ok());
    EXPECT_FALSE(read_mark(folder.path()).ok());
  }
  ASSERT_TRUE(write_file_atomically(mark_path(folder.path()), text).ok());
  EXPECT_FALSE(is_original(folder.path(), **read_mark(folder.path())));
}

/// With the real database.
class Records : public testing::Test {
 public:
  Result<Opened> open(bool accept = false) {
    OpenOptions options;
    options.hot = folder.path() / "hot";
    options.accept_lost = accept;
    return open_sqlite(folder.path(), options);
  }
  /// `count` jobs more.
  void submit(std::int64_t count) {
    auto opened = open();
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    auto loaded = opened->store->load();
    ASSERT_TRUE(loaded.ok());
    BatchBuilder builder(loaded->last_revision);
    std::int64_t last = std::max(loaded->last_job.value(),
                                 loaded->jobs.empty() ? 0 : loaded->jobs.back().id.value());
    for (std::int64_t i = 0; i < count; ++i) {
      builder.add(make_job(++last));
    }
    builder.set(std::string(kTakenBackSetting), "");
    ASSERT_TRUE(opened->store->commit(builder.batch()).ok());
  }
  void copy(const char* from, const char* to) {
    fs::copy_file(folder.path() / from, folder.path() / to, fs::copy_options::overwrite_existing);
  }

  TemporaryFolder folder;
};

TEST_F(Records, KeepTheirLifeFromStartToStart) {
  submit(3);
  const auto before = read_mark(folder.path());
  submit(2);
  const auto after = read_mark(folder.path());
  ASSERT_TRUE(before.ok() && *before && after.ok() && *after);
  EXPECT_EQ((*after)->life, (*before)->life);
  EXPECT_EQ((*after)->inode, (*before)->inode);  // no start writes it anew
  EXPECT_EQ((*after)->job, 5);
}

TEST_F(Records, AreNotTakenBackInSilenceAndGiveNoNumberOutAgain) {
  submit(3);
  copy("quad.db", "copy.db");
  submit(4);
  copy("copy.db", "quad.db");
  const auto refused = open();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(refused.error().message,
              AllOf(HasSubstr("ends with job 3 and event 3, where job 7 and event 7"),
                    HasSubstr("--accept-lost-records")));
  fs::create_directories(folder.path() / "logs/2/4");
  {
    auto accepted = open(true);
    ASSERT_TRUE(accepted.ok()) << accepted.error().message;
    EXPECT_EQ(accepted->lost.size(), 1U);
    const auto loaded = accepted->store->load();
    ASSERT_TRUE(loaded.ok());
    EXPECT_TRUE(loaded->taken_back);
    EXPECT_FALSE(loaded->strangers);
    EXPECT_EQ(loaded->last_job, JobId(7));
    EXPECT_EQ(loaded->last_revision, Revision(8));  // one that tells of it
    EXPECT_THAT(loaded->lost_attempts, ElementsAre(std::make_pair(JobId(2), Epoch(4))));
    EXPECT_EQ(faults_of(*accepted->store), "");
  }
  {
    // It is told until it has been acted on.
    auto again = open();
    ASSERT_TRUE(again.ok()) << again.error().message;
    EXPECT_TRUE(again->store->load()->taken_back);
  }
  submit(1);
  auto last = open();
  ASSERT_TRUE(last.ok()) << last.error().message;
  const auto loaded = last->store->load();
  EXPECT_FALSE(loaded->taken_back);
  EXPECT_EQ(loaded->jobs.back().id, JobId(8));
  EXPECT_EQ(faults_of(*last->store), "");
}

TEST_F(Records, AreRefusedWithoutBeingTouched) {
  submit(3);
  auto opened = open();
  ASSERT_TRUE(opened.ok());
  ASSERT_TRUE(opened->store->load().ok());
  BatchBuilder builder(Revision(3));
  builder.add(make_job(4));
  ASSERT_TRUE(opened->store->commit(builder.batch()).ok());
  copy("quad.db", "saved.db");  // with a log that is not folded in yet
  copy("quad.db-wal", "saved.db-wal");
  opened->store.reset();
  copy("saved.db", "quad.db");
  copy("saved.db-wal", "quad.db-wal");
  ASSERT_TRUE(MarkFile::create(folder.path(), {kTheirs, 0, 1, 1}).ok());
  const std::string log = read_file(folder.path() / "quad.db-wal").value();
  const std::string database = read_file(folder.path() / "quad.db").value();
  EXPECT_FALSE(open().ok());
  EXPECT_EQ(read_file(folder.path() / "quad.db-wal").value(), log);
  EXPECT_EQ(read_file(folder.path() / "quad.db").value(), database);
  fs::remove(folder.path() / "quad.db");
  EXPECT_FALSE(open().ok());
  EXPECT_EQ(read_file(folder.path() / "quad.db-wal").value(), log);
}

TEST_F(Records, LeaveTheFoldersOfOthersAside) {
  submit(2);
  fs::create_directories(folder.path() / "logs/1/1");
  ASSERT_TRUE(write_file_atomically(folder.path() / "logs/.quad-records", kTheirs + " 4\n").ok());
  EXPECT_FALSE(open().ok());
  ASSERT_TRUE(open(true).ok());
  EXPECT_FALSE(fs::exists(folder.path() / "logs/1"));
  EXPECT_TRUE(fs::exists(folder.path() / "logs/.of-bbbbbbbb/1/1"));
  EXPECT_TRUE(open().ok());
}

TEST_F(Records, AreOneServersWhereTheHotTierIsElsewhere) {
  const TemporaryFolder hot;
  OpenOptions options;
  options.hot = hot.path();
  const auto first = open_sqlite(folder.path(), options);
  ASSERT_TRUE(first.ok()) << first.error().message;
  const TemporaryFolder other;
  const auto second = open_sqlite(other.path(), options);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kExists);
  EXPECT_THAT(second.error().message, HasSubstr("hot_tier.host_path"));
}

TEST_F(Records, TellOfDamageInPagesThatNobodyReads) {
  {
    auto opened = open();
    ASSERT_TRUE(opened.ok() && opened->store->load().ok());
    BatchBuilder builder(Revision(0));
    for (std::int64_t id = 1; id <= 300; ++id) {
      builder.add(make_job(id, "ana", fmt::format("\"{}\"", std::string(3000, 'x'))));
    }
    ASSERT_TRUE(opened->store->commit(builder.batch()).ok());
  }
  std::int64_t page = 0;
  std::int64_t size = 0;
  {
    auto db = Connection::open(folder.path() / "quad.db", Connection::Mode::kRead);
    ASSERT_TRUE(db.ok());
    page = db->integer("SELECT rootpage FROM sqlite_schema WHERE name='bodies'").value();
    size = db->integer("PRAGMA page_size").value();
  }
  std::fstream file(folder.path() / "quad.db", std::ios::binary | std::ios::in | std::ios::out);
  file.seekp((page - 1) * size);
  file << std::string(static_cast<std::size_t>(size), '\0');
  file.close();
  auto opened = open();
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  ASSERT_TRUE(opened->store->load().ok());
  Status room = opened->store->room();
  for (int i = 0; room.ok() && i < 2000; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    room = opened->store->room();
  }
  ASSERT_FALSE(room.ok());
  EXPECT_THAT(room.error().message, AllOf(HasSubstr("is damaged"), HasSubstr("last backup")));
}

}  // namespace
}  // namespace quad::store
