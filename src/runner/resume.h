// runner/resume.h
//
// The runner's work with the hot tier, all of it in workers, since storage may stall: raising the
// fence and bringing the newest valid checkpoint forward (rank 0 of a later attempt, before
// anything else), reading the fence each second (every rank), and watching for new checkpoints
// (rank 0). Each function is the body of a worker; what it sends is stated with it.

#pragma once

#include <filesystem>

#include "runner/order.h"
#include "runner/start.h"
#include "runner/worker.h"

namespace quad::runner {

/// <job_dir>/e<epoch>.
std::filesystem::path attempt_folder(const Start& start, const Order& order);

/// For rank 0 of a first attempt: before it there is no fence in the job's folder. If there is one,
/// another job had this number, whose records are lost; what it left is moved to a folder of its
/// own there, so that nothing of it is resumed. Says so, if it was so. Not a worker's: a few system
/// calls on the storage.
std::string set_others_aside(const Order& order);

/// Raises the fence. Sends {"raised": true}, or {"fenced": epoch} when a newer attempt has taken
/// over, or
/// {"error": sentence}: then the rank cannot start.
void raise_work(const Start& start, const Order& order, const WorkerOutput& output);

/// To be done once the wait behind the raised fence is over: picks the newest valid checkpoint and
/// brings it forward. Sends {"resumed": true, "path", "step", "note"}.
void resume_work(const Start& start, const Order& order, const WorkerOutput& output);

/// Until it is killed: reads the fence each second by a fresh open. Sends {"fenced": epoch} once it
/// is above the own epoch, and {"lease": at} for each good reading when the order has a lease: the
/// monotonic milliseconds at which the reading began. Rank 0 also raises the fence to the own epoch
/// whenever it is lower: at the first reading of a first attempt, and when a rank 0 of an older
/// attempt, which had stood still in its own raising of it, wrote over a newer one.
void watch_fence(const Start& start, const Order& order, const WorkerOutput& output);

/// Until it is asked to come to an end, when it takes a last look: looks for new checkpoints every
/// few seconds; keeps a copy of one that a script overwrites in place; deletes what retention lets
/// go. Sends {"checkpoint": {path, step, bytes, seconds, framework, note}}, {"gone": [path, …]} of
/// checkpoints that it had told of, or that retention deleted, and {"note": sentence, "kind":
/// kind}.
void watch_checkpoints(const Start& start, const Order& order, const std::string& resumed_from,
                       const WorkerOutput& output);

/// Whether the attempt's own folder in the hot tier is there and empty, and the task has no path of
/// its own to look at instead. Not a worker's: blocks for as long as the storage does.
bool has_written_nothing(const Start& start, const Order& order);

/// Removes those of the job's folders in the hot tier in which nothing was written: for a job that
/// is over. Not a worker's: blocks for as long as the storage does.
void remove_what_is_empty(const Start& start, const Order& order);

}  // namespace quad::runner
