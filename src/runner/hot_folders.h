// runner/hot_folders.h
//
// The folders of the hot tier that a pod sees: its job's and its owner's home, and nothing else of
// it. The kubelet mounts each by its path within the tier, and would make one that is missing as
// root's, with whatever mode the tier has; so they are made before, by the container that brings
// the runner, which alone has all of the tier mounted and runs nothing of the user's.
//
// Blocks for as long as the storage does. Follows no link in the job's path.

#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"

namespace quad::runner {

struct HotFolders {
  struct Owner {
    uid_t uid = 0;
    gid_t gid = 0;
  };
  std::filesystem::path tier;  ///< where all of it is mounted
  std::string job;             ///< within the tier: ".quad/1a2b3c4d/17"
  std::string home;            ///< likewise: "alice"
  std::optional<Owner> owner;  ///< as whom the rank runs; without one, as its image says
};

/// "5001:100"; nullopt if it is none.
std::optional<HotFolders::Owner> read_owner(std::string_view text);

/// Makes those that are missing: the owner's and closed to others; where the image decides as whom
/// the rank runs, open to all, since nobody else sees them. A job's folder that is another's
/// becomes the owner's, with its fence, where root may do that, as after the owner was given a uid;
/// a home that is there stays as it is. Done twice it is done once. kDenied, kIo, …: with a
/// sentence that says what to do.
Status make_hot_folders(const HotFolders& folders);

}  // namespace quad::runner
