#include "pool/gpu_names.h"

#include <array>
#include <vector>

#include "base/text.h"

namespace quad::pool {
namespace {

bool is_word_letter(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

char upper(char c) {
  return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
}

// The words of a driver's name in upper case: what lies between blanks, dashes, underscores and
// slashes.
std::vector<std::string> words_of(std::string_view name) {
  std::vector<std::string> words(1);
  for (const char c : name) {
    if (const char letter = upper(c); is_word_letter(letter)) {
      words.back() += letter;
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  if (words.back().empty()) {
    words.pop_back();
  }
  return words;
}

// Whether the words of `phrase` stand in `words`, side by side and in this order.
bool contains(const std::vector<std::string>& words, std::string_view phrase) {
  if (phrase.empty()) {
    return true;
  }
  const auto wanted = split(phrase, ' ');
  for (std::size_t at = 0; at + wanted.size() <= words.size(); ++at) {
    std::size_t same = 0;
    while (same < wanted.size() && words[at + same] == wanted[same]) {
      ++same;
    }
    if (same == wanted.size()) {
      return true;
    }
  }
  return false;
}

struct Model {
  std::string_view phrase;
  std::string_view also;  ///< must stand somewhere, too
  std::string_view name;
};

// Where one row would also match another's GPU, the narrower row comes first.
constexpr std::array kModels = {
    Model{"A100", "80GB", "A100-80GB"},           Model{"A100X", "", "A100-80GB"},
    Model{"V100", "32GB", "V100-32GB"},           Model{"V100S", "", "V100-32GB"},
    Model{"RTX 6000 ADA", "", "RTX6000-Ada"},     Model{"RTX6000 ADA", "", "RTX6000-Ada"},
    Model{"RTX 5000 ADA", "", "RTX5000-Ada"},     Model{"RTX5000 ADA", "", "RTX5000-Ada"},
    Model{"RTX 4000 ADA", "", "RTX4000-Ada"},     Model{"RTX4000 ADA", "", "RTX4000-Ada"},
    Model{"RTX 4000 SFF ADA", "", "RTX4000-Ada"}, Model{"RTX PRO 6000", "", "RTXPRO6000"},
    Model{"QUADRO RTX 8000", "", "RTX8000"},      Model{"QUADRO RTX 6000", "", "RTX6000"},
    Model{"QUADRO RTX 5000", "", "RTX5000"},      Model{"T4G", "", "T4g"},
};

// Models that are called by one word, wherever it stands.
constexpr std::array kWords = {
    std::string_view("GB300"),  std::string_view("GB200"),  std::string_view("B300"),
    std::string_view("B200"),   std::string_view("B100"),   std::string_view("GH200"),
    std::string_view("H200"),   std::string_view("H100"),   std::string_view("H800"),
    std::string_view("H20"),    std::string_view("A100"),   std::string_view("A800"),
    std::string_view("A10G"),   std::string_view("A10"),    std::string_view("A16"),
    std::string_view("A2"),     std::string_view("A30"),    std::string_view("A40"),
    std::string_view("A6000"),  std::string_view("A5500"),  std::string_view("A5000"),
    std::string_view("A4500"),  std::string_view("A4000"),  std::string_view("A2000"),
    std::string_view("L40S"),   std::string_view("L40"),    std::string_view("L20"),
    std::string_view("L4"),     std::string_view("L2"),     std::string_view("V100"),
    std::string_view("P100"),   std::string_view("P40"),    std::string_view("P4000"),
    std::string_view("P4"),     std::string_view("T4"),     std::string_view("K80"),
    std::string_view("M60"),    std::string_view("MI355X"), std::string_view("MI350X"),
    std::string_view("MI325X"), std::string_view("MI308X"), std::string_view("MI300X"),
    std::string_view("MI300A"), std::string_view("MI250X"), std::string_view("MI250"),
    std::string_view("MI210"),  std::string_view("MI100"),
};

// What says who made it or what line it is of, not which model it is.
bool is_brand(std::string_view word) {
  constexpr std::array kBrands = {
      std::string_view("NVIDIA"),      std::string_view("GEFORCE"),  std::string_view("TESLA"),
      std::string_view("QUADRO"),      std::string_view("AMD"),      std::string_view("ATI"),
      std::string_view("RADEON"),      std::string_view("INSTINCT"), std::string_view("GRAPHICS"),
      std::string_view("CORPORATION"),
  };
  for (const std::string_view brand : kBrands) {
    if (word == brand) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::string canonical_gpu(std::string_view driver_name) {
  const std::vector<std::string> words = words_of(driver_name);
  for (const Model& model : kModels) {
    if (contains(words, model.phrase) && contains(words, model.also)) {
      return std::string(model.name);
    }
  }
  for (const std::string_view model : kWords) {
    if (contains(words, model)) {
      return std::string(model);
    }
  }
  std::string name;
  for (const std::string& word : words) {
    if (is_brand(word)) {
      continue;
    }
    const bool joined = name == "RTX" || name == "GTX" || name == "RX";  // "RTX 4090" is RTX4090
    name += (name.empty() || joined ? "" : "-") + word;
  }
  return name;
}

std::string_view amd_gpu_model(std::int64_t pci_device) {
  switch (pci_device) {
    case 0x75a3:
    case 0x75b3:
      return "MI355X";
    case 0x75a0:
    case 0x75b0:
      return "MI350X";
    case 0x74a5:
    case 0x74b9:
      return "MI325X";
    case 0x74a2:
    case 0x74b6:
      return "MI308X";
    case 0x74a1:
    case 0x74b5:
      return "MI300X";
    case 0x74a0:
    case 0x74b4:
      return "MI300A";
    case 0x7408:
      return "MI250X";
    case 0x740c:
      return "MI250";
    case 0x740f:
    case 0x7410:
      return "MI210";
    case 0x738c:
    case 0x738e:
      return "MI100";
    default:
      return {};
  }
}

}  // namespace quad::pool
