// job/judge.h
//
// Why ranks and attempts ended: from how each rank ended to a verdict, a cause and a sentence.
// Pure; O(ranks).
//
// The strongest evidence decides, not the earliest: a lost node outranks a vanished runner, that a
// signal from outside, that the user's own exit code. The weaker are usually consequences of the
// stronger: a peer whose node dies makes the others fail with a broken connection.

#pragma once

#include <cstdint>
#include <string>

#include "job/job.h"

namespace quad::job {

struct Judgement {
  int weight = 0;  ///< of the evidence; 0: every rank was ended by Quad
  Verdict verdict = Verdict::kSuccess;
  Cause cause = Cause::kNone;
  std::string reason;
  std::int32_t exit_code = 0;
};

/// Whether the rank's own process exited with 0.
[[nodiscard]] bool ended_well(const RankEnd& end);

/// What one rank's end says by itself. `node` is where it ran.
[[nodiscard]] Judgement judge(const RankEnd& end, std::size_t rank, const std::string& node);

/// The strongest over all ranks, each of which must have an end; among equals the earliest end
/// decides, then the lowest rank.
[[nodiscard]] Judgement judge(const Attempt& attempt);

}  // namespace quad::job
