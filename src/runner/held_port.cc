#include "runner/held_port.h"

#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <cstdint>
#include <utility>

namespace quad::runner {

HeldPort hold_port() {
  constexpr int kTries = 32;
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  for (int attempt = 1; fd && attempt <= kTries; ++attempt) {
    std::uint16_t random = 0;
    (void)getrandom(&random, sizeof random, GRND_NONBLOCK);
    const int port = attempt == kTries ? 0 : 20'000 + random % 12'000;
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<in_port_t>(port));
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      socklen_t size = sizeof address;
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
      return {std::move(fd), ntohs(address.sin_port)};
    }
  }
  return {};
}

}  // namespace quad::runner
