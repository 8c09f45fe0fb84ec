// cli/since.h
//
// Times as people write them, and as `quad story` and `quad events` print them: in the zone of
// whoever reads. Pure but for that zone (TZ); any thread.

#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/time.h"

namespace quad::cli {

/// For the API, which has no zone of a reader: "HH:MM[:SS[.mmm]]", the last such time that has
/// been; "YYYY-MM-DD", its beginning; "YYYY-MM-DD HH:MM[:SS[.mmm]]", with a T for the blank as
/// well. What has a zone, and how long ago ("10m"), is given back as it is. kInvalid for what is
/// none of these.
Result<std::string> since_text(std::string_view text, WallTime now);

}  // namespace quad::cli
