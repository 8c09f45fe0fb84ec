// runner/held_port.h
//
// A port for the rank's own processes to meet at (MASTER_PORT): free on every address of this
// machine and outside of those that the kernel hands out by itself. The socket holds it until
// they need it.

#pragma once

#include "base/file.h"

namespace quad::runner {

struct HeldPort {
  UniqueFd socket;  ///< to be closed when the port is to be used
  int number = 0;   ///< 0: none could be had
};

HeldPort hold_port();

}  // namespace quad::runner
