// store/store.h
//
// Durable records and the event log. One writer (the control thread) commits whole batches: after
// commit() returns, a power cut loses nothing of them. Readers (any thread) use read(), which has
// connections of its own and never blocks the writer.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "job/event.h"
#include "job/job.h"

namespace quad::store {

/// Everything that one pass of control changed. Applied completely or not at all.
struct Batch {
  struct NewJob {
    const job::Job* job = nullptr;  ///< its request is stored with it
    std::string client_key;         ///< empty: none; else unique per owner
  };
  std::vector<NewJob> new_jobs;
  std::vector<const job::Job*> changed_jobs;
  std::vector<job::Event> events;  ///< revisions are already given: last revision + 1, + 2, …
  /// Small durable settings: drained nodes, the API tokens' hashes, …; an empty value removes the
  /// key.
  std::vector<std::pair<std::string, std::string>> settings;

  [[nodiscard]] bool empty() const {
    return new_jobs.empty() && changed_jobs.empty() && events.empty() && settings.empty();
  }
};

/// What a server finds when it starts.
struct Loaded {
  std::vector<job::Job> jobs;  ///< in order of id
  Revision last_revision;
  std::vector<std::pair<std::string, std::string>> settings;
  /// (owner, client key) -> job, for idempotent submission.
  std::vector<std::pair<std::pair<std::string, std::string>, JobId>> client_keys;

  // Of records that were taken back (OpenOptions::accept_lost); told until a batch is committed
  // with the setting kTakenBackSetting (store/identity.h) empty.

  /// No number at or below it is given out: jobs had them whose records are lost. Also later.
  JobId last_job;
  bool taken_back = false;
  /// What runs is of other records, whose jobs had the same numbers.
  bool strangers = false;
  /// Jobs that have not ended and had attempts that are lost: up to this one.
  std::vector<std::pair<JobId, Epoch>> lost_attempts;
};

struct EventFilter {
  Revision after;  ///< only later ones
  std::optional<Revision>
      until;  ///< none later than this: bounds the work of a filter that few events pass
  std::optional<JobId> job;
  std::optional<std::string> node;
  std::string kind_prefix;  ///< "" = all; "node." = those of nodes
  std::size_t limit = 1000;
  bool newest_first = false;
};

class Store {
 public:
  virtual ~Store() = default;
  /// Everything but the bodies of finished jobs' requests, which are read on demand.
  virtual Result<Loaded> load() = 0;
  virtual Status commit(const Batch& batch) = 0;
  /// In a sentence, while nothing new may begin: there is too little room, or the folder is
  /// read-only (kExhausted), or the database was found damaged (kIo). What has begun may still be
  /// recorded. Any thread; one system call.
  [[nodiscard]] virtual Status room() const = 0;
  /// Events that match, oldest first unless asked otherwise. Any thread.
  virtual Result<std::vector<job::Event>> events(const EventFilter& filter) const = 0;
  /// A request's body (opaque JSON text), by job. Any thread.
  virtual Result<std::string> body(JobId job) const = 0;
  /// A consistent copy while work goes on. Any thread.
  virtual Status backup(const std::filesystem::path& to) const = 0;
  /// Every fault found, as sentences; empty when the store is sound.
  virtual Result<std::vector<std::string>> check() const = 0;
};

/// The body of a job's request, whether the job carries it or came from the store, which loads it
/// without. Any thread.
inline Result<std::string> body_of(const Store& store, const job::Job& job) {
  return job.request->body.empty() ? store.body(job.id) : job.request->body;
}

/// A key that belongs to the records and is kept outside of them.
struct KeyOnDisk {
  std::string name;     ///< of its file
  std::string check;    ///< tells keys apart, and nothing of them; of the one to be made if absent
  bool present = true;  ///< its file is there
};

struct OpenOptions {
  std::filesystem::path hot;    ///< this machine's hot tier; empty: it has none
  std::vector<KeyOnDisk> keys;  ///< whose check values are kept, and compared
  /// Goes on with what is there although records are lost or do not belong together.
  bool accept_lost = false;
};

struct Opened {
  std::unique_ptr<Store> store;
  std::vector<std::string> lost;   ///< what was accepted, in words
  std::vector<std::string> notes;  ///< what is worth telling besides
};

/// Opens or creates `<folder>/quad.db`: WAL, synchronous=FULL, migrated to this version's schema.
/// Holds a lock file for as long as it lives: kExists (naming the other process) when another
/// server has it, kUnsupported when the schema is newer than this program. kUnavailable, saying
/// what is missing, when these are not the records that were last kept there (store/provenance.h);
/// then nothing has been changed. A thread of its own reads through the database once it has been
/// loaded, and Store::room() tells of damage that it finds.
Result<Opened> open_sqlite(const std::filesystem::path& folder, const OpenOptions& options);

/// The same without keys, with the hot tier in the folder.
Result<std::unique_ptr<Store>> open_sqlite(const std::filesystem::path& folder);

}  // namespace quad::store
