#include "base/machine.h"

#include <unistd.h>

#include <array>

#include "base/file.h"
#include "base/text.h"

namespace quad {

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

Result<std::string> read_boot_id() {
  const auto text = read_file("/proc/sys/kernel/random/boot_id", 256);
  if (text.ok()) {
    return std::string(trim(*text));
  }
  if (text.error().code == ErrorCode::kNotFound) {
    return std::string("unknown");
  }
  return text.error();
}

}  // namespace quad
