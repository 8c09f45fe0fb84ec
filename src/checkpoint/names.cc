#include "checkpoint/names.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <vector>

namespace quad::checkpoint {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z');
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    c = (c >= 'A' && c <= 'Z') ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return result;
}

template <std::size_t kCount>
bool one_of(std::string_view word, const std::array<std::string_view, kCount>& words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

constexpr std::array<std::string_view, 11> kStepWords = {
    "step",  "steps",      "globalstep", "iteration", "iterations", "iter",
    "iters", "checkpoint", "ckpt",       "batch",     "update"};
constexpr std::array<std::string_view, 3> kEpochWords = {"epoch", "epochs", "ep"};
// Words whose number is anything but a step.
constexpr std::array<std::string_view, 36> kOtherWords = {
    "rank",  "of",    "part", "shard", "v",      "version", "mp",   "pp",    "tp",
    "dp",    "node",  "seed", "fold",  "worker", "run",     "exp",  "trial", "job",
    "stage", "phase", "task", "acc",   "loss",   "auc",     "f1",   "val",   "score",
    "top",   "lr",    "bs",   "bleu",  "wer",    "miou",    "dice", "layer", "expert"};
constexpr std::array<std::string_view, 16> kExtensions = {
    ".pt",  ".pth", ".ckpt", ".bin",   ".safetensors", ".pkl",      ".pickle", ".npz",
    ".tar", ".h5",  ".hdf5", ".keras", ".msgpack",     ".pdparams", ".model",  ".weights"};

struct Piece {
  std::string_view text;
  bool digits = false;
  std::size_t at = 0;
};

// Runs of letters, of digits, and single other characters.
std::vector<Piece> pieces_of(std::string_view stem) {
  std::vector<Piece> pieces;
  std::size_t i = 0;
  while (i < stem.size()) {
    std::size_t end = i + 1;
    if (is_digit(stem[i])) {
      while (end < stem.size() && is_digit(stem[end])) {
        ++end;
      }
    } else if (is_letter(stem[i])) {
      while (end < stem.size() && is_letter(stem[end])) {
        ++end;
      }
    }
    pieces.push_back(Piece{stem.substr(i, end - i), is_digit(stem[i]), i});
    i = end;
  }
  return pieces;
}

std::optional<std::int64_t> number_of(std::string_view digits) {
  if (digits.empty() || digits.size() > 18) {
    return std::nullopt;
  }
  std::int64_t value = 0;
  for (const char c : digits) {
    value = value * 10 + (c - '0');
  }
  return value;
}

bool is_separator(const Piece& piece) {
  return piece.text == "-" || piece.text == "_" || piece.text == "=" || piece.text == ".";
}

struct Number {
  std::int64_t value = 0;
  std::size_t at = 0;
  std::size_t length = 0;
};

struct Reading {
  std::optional<Number> step;
  std::optional<Number> epoch;
  StepSource source = StepSource::kNone;
};

std::string_view stem_of(std::string_view name) {
  const std::string extension = extension_of(name);
  if (std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end() ||
      extension == ".json" || extension == ".txt") {
    name.remove_suffix(extension.size());
    // Such as .pth.tar.
    if (extension == ".tar") {
      return stem_of(name);
    }
  }
  return name;
}

// The word just before piece `i`, over one separator; "" if there is none.
std::string_view word_before(const std::vector<Piece>& pieces, std::size_t i) {
  if (i > 0 && is_separator(pieces[i - 1])) {
    --i;
  }
  if (i == 0 || pieces[i - 1].digits || !is_letter(pieces[i - 1].text.front())) {
    return {};
  }
  return pieces[i - 1].text;
}

Reading read_name(std::string_view lowered) {
  const std::string_view stem = stem_of(lowered);
  const std::vector<Piece> pieces = pieces_of(stem);
  Reading reading;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (!pieces[i].digits) {
      continue;
    }
    auto value = number_of(pieces[i].text);
    if (!value) {
      continue;
    }
    Number number{*value, pieces[i].at, pieces[i].text.size()};
    const std::string_view after = i + 1 < pieces.size() ? pieces[i + 1].text : "";
    const bool ends = i + 1 == pieces.size() || is_separator(pieces[i + 1]);
    const std::string_view word = word_before(pieces, i);
    if (one_of(word, kStepWords) && (ends || after == "k" || after == "m")) {
      const std::int64_t scale = after == "k" ? 1000 : after == "m" ? 1'000'000 : 1;
      number.value = number.value < 1'000'000'000'000 ? number.value * scale : number.value;
      // "checkpoint-2-step-500": the word that says step wins over the one that says checkpoint.
      const bool vague = word == "checkpoint" || word == "ckpt" || word == "batch";
      if (!vague || !reading.step) {
        reading.step = number;
      }
      reading.source = StepSource::kKeyword;
    } else if (one_of(word, kEpochWords) && ends) {
      reading.epoch = number;
    } else if ((after == "step" || after == "steps" || after == "iters") &&
               (i + 2 == pieces.size() || !is_letter(pieces[i + 2].text.front()))) {
      reading.step = number;
      reading.source = StepSource::kKeyword;
    }
  }
  if (reading.step || stem.find('=') != std::string_view::npos) {
    return reading;
  }
  if (pieces.size() == 1 && pieces[0].digits) {
    if (auto value = number_of(pieces[0].text)) {
      reading.step = Number{*value, 0, stem.size()};
      reading.source = StepSource::kAllDigits;
    }
    return reading;
  }
  if (reading.epoch) {
    return reading;
  }
  // "model_1200", "optim_1200_rank0": the last number that stands alone between separators.
  std::size_t end = pieces.size();
  if (end >= 3 && pieces[end - 1].digits && word_before(pieces, end - 1) == "rank") {
    end -= is_separator(pieces[end - 2]) ? 3 : 2;
    if (end > 0 && is_separator(pieces[end - 1])) {
      --end;
    }
  }
  if (end < 2 || !pieces[end - 1].digits) {
    return reading;
  }
  const Piece& before = pieces[end - 2];
  const bool alone = before.text == "-" || before.text == "_" ||
                     (before.text == "." && end >= 3 && !pieces[end - 3].digits);
  if (alone && !one_of(word_before(pieces, end - 1), kOtherWords)) {
    if (auto value = number_of(pieces[end - 1].text)) {
      reading.step = Number{*value, pieces[end - 1].at, pieces[end - 1].text.size()};
      reading.source = StepSource::kTrailingNumber;
    }
  }
  return reading;
}

}  // namespace

NameFacts facts_of_name(std::string_view name) {
  const std::string lowered = lower(name);
  const Reading reading = read_name(lowered);
  NameFacts facts;
  facts.source = reading.source;
  if (reading.step) {
    facts.step = reading.step->value;
  }
  if (reading.epoch) {
    facts.training_epoch = reading.epoch->value;
  }
  return facts;
}

std::string shape_of_name(std::string_view name) {
  const std::string lowered = lower(name);
  const Reading reading = read_name(lowered);
  std::string shape(name);
  if (reading.step) {
    shape.replace(reading.step->at, reading.step->length, "#");
  }
  return shape;
}

bool is_temporary_name(std::string_view name) {
  const std::string low = lower(name);
  const std::string_view text = low;
  for (const std::string_view prefix :
       {".", "tmp-", "tmp_", "tmp.", "temp-", "temp_", "__tmp", "#"}) {
    if (text.starts_with(prefix)) {
      return true;
    }
  }
  for (const std::string_view suffix :
       {".tmp", ".temp", ".partial", ".part", ".incomplete", ".inprogress", ".writing", ".swp", "~",
        "_tmp", "-tmp", ".lock"}) {
    if (text.ends_with(suffix)) {
      return true;
    }
  }
  return text == "tmp" || text == "temp" || text.find(".tmp-") != std::string_view::npos ||
         text.find(".tmp.") != std::string_view::npos ||
         text.find(".orbax-checkpoint-tmp") != std::string_view::npos;
}

std::string extension_of(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos || dot == 0) {
    return {};
  }
  return lower(name.substr(dot));
}

bool is_checkpoint_file_name(std::string_view name) {
  return one_of(extension_of(name), kExtensions);
}

bool is_side_file_name(std::string_view name) {
  const std::string low = lower(name);
  const std::vector<Piece> pieces = pieces_of(stem_of(low));
  constexpr std::array<std::string_view, 11> kSideWords = {
      "optim", "optimizer", "optimiser", "scheduler", "sched", "scaler",
      "rng",   "args",      "config",    "tokenizer", "random"};
  return std::any_of(pieces.begin(), pieces.end(),
                     [&](const Piece& piece) { return one_of(piece.text, kSideWords); });
}

std::string shown(std::string_view name) {
  std::string result;
  std::size_t i = 0;
  while (i < name.size() && result.size() < 200) {
    const auto byte = static_cast<unsigned char>(name[i]);
    std::size_t length = byte < 0x80 ? 1 : byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
    bool fine = byte >= 0x20 && byte != 0x7F && (byte < 0x80 || (byte >= 0xC2 && byte <= 0xF4)) &&
                i + length <= name.size();
    for (std::size_t k = 1; fine && k < length; ++k) {
      fine = (static_cast<unsigned char>(name[i + k]) & 0xC0U) == 0x80U;
    }
    // U+0080 to U+009F are control characters as well.
    fine = fine && !(byte == 0xC2 && static_cast<unsigned char>(name[i + 1]) < 0xA0);
    length = fine ? length : 1;
    result += fine ? std::string(name.substr(i, length)) : "?";
    i += length;
  }
  return i < name.size() ? result + "…" : result;
}

}  // namespace quad::checkpoint
