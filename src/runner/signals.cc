#include "runner/signals.h"

#include <signal.h>

namespace quad::runner {
namespace {

volatile sig_atomic_t end_asked = 0;

void on_terminate(int /*signal*/) {
  end_asked = 1;
}

void on_child(int /*signal*/) {}  // wakes the loop

}  // namespace

void prepare_signals() {
  struct sigaction action {};
  action.sa_handler = on_terminate;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
  action.sa_handler = on_child;
  action.sa_flags = SA_NOCLDSTOP;
  ::sigaction(SIGCHLD, &action, nullptr);
  ::signal(SIGHUP, SIG_IGN);
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigaddset(&blocked, SIGINT);
  sigaddset(&blocked, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &blocked, nullptr);
}

bool take_end_asked() {
  const bool asked = end_asked != 0;
  end_asked = 0;
  return asked;
}

}  // namespace quad::runner
