// cli/completion.h
//
// Completion, and the suggestions for what was misspelt: both walk the command line along the tree
// of verbs. The shells' scripts hold no knowledge of their own; they ask `quad __complete WORD…` at
// each press of the key.

#pragma once

#include <string>
#include <vector>

#include "cli/commands.h"

namespace quad::cli {

/// `quad __complete WORDS…`: prints what may stand in place of the last word, "WORD<tab>WHAT IT IS"
/// a line; the line
/// ":files" stands for file names. Starts no server, and gives up after two seconds.
int complete(CLI::App& app, Program& program, const std::vector<std::string>& words);

/// The words for the parser of options, such that it takes each for what it is: without what stands
/// behind the -- of a verb that takes a command, which becomes `program.command`, and with words
/// that it would read as something else (a list in brackets) made safe. Only once for an `app`,
/// whose options take them as they were.
std::vector<std::string> parser_words(CLI::App& app, Program& program,
                                      const std::vector<std::string>& words);

/// What is wrong with a command line that could not be parsed: the unknown verb or flag and the
/// nearest known one; else `problem`, the parser's own words. And which help to see.
std::string usage_error(CLI::App& app, const std::vector<std::string>& words, std::string problem);

}  // namespace quad::cli
