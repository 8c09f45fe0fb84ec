// cli/uploads.h
//
// What a task brings from this machine, for the verbs that launch: looks through the workdir and
// the local mounts, says what goes along and what stays behind, packs and sends. One thread; blocks
// for as long as the disk and the network do.

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/client.h"
#include "cli/pack.h"
#include "spec/parse.h"

namespace quad::cli {

/// A path as people write it: "~" is the home folder.
std::filesystem::path local_path(const std::string& text);

class Uploads {
 public:
  /// `exec`: nothing but the workdir is brought.
  Uploads(const spec::TaskSet& set, bool exec);

  /// What cannot be brought, whatever the server says: it is not there, or Quad's own.
  [[nodiscard]] std::vector<spec::Diagnostic> faults() const;
  /// Looks through all of them, and reads no more than names. An error names the key.
  Status survey();
  /// "Workdir: 214 files, 3.2 MB; left behind as git ignores them: 2 files (3.1 GB): data/, x.bin"
  [[nodiscard]] std::vector<std::string> lines() const;
  /// What a person may not have meant. Of use after survey(), as are the other two.
  [[nodiscard]] std::vector<spec::Diagnostic> warnings() const;
  /// Packs and uploads, and puts the blobs' names into the request; on a terminal, with a live line
  /// on standard error when it takes more than a second. Gives what else there is to warn of.
  Result<std::vector<spec::Diagnostic>> send(Client& client, json::object& body);

  /// [{key, source, files, bytes, left_behind: {rules, files, bytes, counted, largest: []}}]
  [[nodiscard]] json::array to_json() const;

 private:
  struct Upload {
    std::string key;          ///< for messages: "workdir", "file_mounts./data"
    std::string destination;  ///< of a file mount; empty for the workdir
    std::filesystem::path source;
    spec::Mark mark;
    Survey survey;

    [[nodiscard]] bool is_workdir() const { return destination.empty(); }
    [[nodiscard]] std::string line() const;
    [[nodiscard]] std::optional<spec::Diagnostic> fault() const;
    void warn(std::vector<spec::Diagnostic>& warnings) const;
    void warn_of_sample(const Sample& sample, std::string_view message, std::string_view hint,
                        std::vector<spec::Diagnostic>& warnings) const;
    [[nodiscard]] spec::Diagnostic told(std::string message, std::string hint = {}) const;
  };

  std::vector<Upload> uploads_;
};

}  // namespace quad::cli
