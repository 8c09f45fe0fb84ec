#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <thread>

#include "base/time.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "net/message.h"
#include "net/sse.h"

namespace quad::cli {

namespace {

constexpr Millis kSilence{60'000};  ///< the server sends something at least every 15 s
constexpr std::chrono::minutes kPatience{5};

struct EventOptions {
  std::int64_t after = 0;
  std::int64_t job = 0;
  std::string node;
  bool follow = false;
  std::string kind;
};

class EventReader {
 public:
  EventReader(const Globals& globals, EventOptions options) : globals_(globals), options_(std::move(options)) {}

  Status pages(Client& client);
  Status follow(Client& first);

 private:
  [[nodiscard]] std::string target() const;
  void print(const json::object& event);

  const Globals& globals_;
  EventOptions options_;
  std::string day_;
};

std::string EventReader::target() const {
  std::string target = fmt::format("/v1/events?after={}", options_.after);
  target += options_.job > 0 ? fmt::format("&job={}", options_.job) : "";
  target += options_.node.empty() ? "" : "&node=" + net::percent_encode(options_.node);
  target += options_.kind.empty() ? "" : "&kind=" + net::percent_encode(options_.kind);
  return target;
}

void EventReader::print(const json::object& event) {
  options_.after = get_int(event, "revision");
  if (globals_.json()) {
    fmt::print("{}\n", to_text(event));
  } else {
    std::string day;
    const std::string at = local_time(get_string(event, "at"), day);
    fmt::print("{:>7}  {}  {:<20} {}{}\n", options_.after, at, get_string(event, "kind"),
               event.contains("job") ? fmt::format("job {}: ", get_int(event, "job")) : "",
               printable(get_string(event, "message")));
  }
}

Status EventReader::pages(Client& client) {
  constexpr std::int64_t kPage = 10'000;
  for (;;) {
    QUAD_ASSIGN(const json::object answer, client.get(target() + fmt::format("&limit={}", kPage)));
    const json::array& events = *get_array(answer, "events");
    for (const json::value& event : events) {
      print(event.as_object());
    }
    if (static_cast<std::int64_t>(events.size()) < kPage) {
      return {};
    }
  }
}

Status EventReader::follow(Client& first) {
  std::optional<Client> again;
  const auto began = [] { return std::chrono::steady_clock::now(); };
  auto heard_at = began();
  for (;;) {
    net::SseParser parser;
    bool unread = false;
    const Status status = (again ? *again : first)
                              .stream(target() + "&follow=1",
                                      [&](std::string_view piece) {
                                        heard_at = began();
                                        const auto more = parser.feed(piece, [&](const net::SseEvent& event) {
                                          if (const auto object = parse_json_object(event.data);
                                              object.ok() && object->contains("revision")) {
                                            print(*object);
                                          }
                                          return true;
                                        });
                                        unread = std::fflush(stdout) != 0;
                                        return more.ok() && *more && !unread;
                                      },
                                      kSilence, {{"Accept", "text/event-stream"}});
    const bool away =
        status.ok() || status.error().code == ErrorCode::kUnavailable || status.error().code == ErrorCode::kTimeout;
    if (unread || !away) {
      return unread ? Status() : status;
    }
    for (Millis pause{50};; pause = std::min(pause * 2, Millis(1'000))) {
      std::this_thread::sleep_for(pause);
      auto found = Client::connect(globals_, false);
      if (found.ok()) {
        again.emplace(std::move(*found));
        break;
      }
      if (began() - heard_at > kPatience) {
        return found.error();
      }
    }
  }
}

}  // namespace

void add_events(CLI::App& app, Program& program) {
  auto options = std::make_shared<EventOptions>();
  CLI::App* verb = add_verb(app, program, "events", "Everything that happens, as it happens");
  verb->add_option("--after", options->after, "After this revision")->check(whole_number(0, "a revision"));
  verb->add_option("--job", options->job, "About this job")->check(whole_number(1, kJobNumber));
  verb->add_option("--node", options->node, "About this node");
  verb->add_option("--kind", options->kind, "Kinds that begin so, such as node.");
  verb->add_flag("-f,--follow", options->follow, "Go on until interrupted");
  verb->callback([&program, options] {
    program.chosen = [&program, options] {
      auto client = Client::connect(program.globals);
      if (!client.ok()) {
        return fail(client.error());
      }
      EventReader reader(program.globals, *options);
      const Status status = options->follow ? reader.follow(*client) : reader.pages(*client);
      return status.ok() ? kOk : fail(status.error());
    };
  });
}

}  // namespace quad::cli
