// runner/blob_door.h
//
// How a process of the rank gets the uploads that its order names: a worker of the runner's fetches
// them and passes them on, since the rank may neither see the server's socket nor have a use for
// the attempt's token. A request is a hash and a line end; the answer is pieces, `u32 size, bytes`,
// and after one of size 0 `u32 code, u32 size, text`: code 0 if that was all, else an ErrorCode and
// what went wrong. Numbers are the machine's own.

#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "runner/order.h"
#include "runner/start.h"

namespace quad::runner {

/// The worker's side: serves `fd` until nobody asks any more.
void serve_blobs(const Start& start, const Order& order, int fd);

/// The rank's side. Blocks.
class BlobDoor {
 public:
  explicit BlobDoor(int fd) : fd_(fd) {}

  Status ask(const std::string& hash);
  /// The next piece, empty at the end; again after that: still empty.
  Result<std::string_view> read();

 private:
  Status take(char* into, std::size_t size) const;

  int fd_;
  bool over_ = true;
  std::string piece_;
};

}  // namespace quad::runner
