// engine/local/environment.h
//
// The environment that runners, and with them all that a job starts, get on this machine. It is
// made, not inherited: what the shell that started the server had exported (keys, LD_PRELOAD, an
// activated environment) says nothing about jobs, which must behave alike whoever started the
// server, and from where. What comes of the server's own environment is on a list, or is named in
// the configuration; the rest is for the task to say.
//
// Pure, but for a look at TMPDIR's folder and at the account's name.

#pragma once

#include <string>
#include <vector>

namespace quad::engine {

/// "NAME=value" entries, from `own`, which are this process's. `named` ones come as they are, PATH
/// too; of others:
///   - PATH, without relative folders and without those of the virtual or Conda environments that
///     are active in it; `conda` itself stays to be found
///   - LANG, LANGUAGE, LC_*, TZ; TMPDIR if it is a folder that may be written to
///   - which GPUs there are for this machine's programs, and what their driver is to bring
/// and USER and LOGNAME by the account that this process runs as.
std::vector<std::string> environment_of_jobs(const std::vector<std::string>& own,
                                             const std::vector<std::string>& named);

/// Those of `named` that `own` lacks.
std::vector<std::string> missing_variables(const std::vector<std::string>& own,
                                           const std::vector<std::string>& named);

/// PATH's value as said above.
std::string path_of_jobs(const std::vector<std::string>& own);

}  // namespace quad::engine
