#include "runner/vitals.h"

namespace quad::runner {
namespace {

json::object heartbeat(std::uint64_t rss_bytes, double cpu_percent, MonoTime now) {
  return {{"type", "heartbeat"},
          {"rss_bytes", rss_bytes},
          {"cpu_percent", cpu_percent},
          {"at_ms", now.millis}};
}

}  // namespace

void Vitals::tell_heartbeat(MonoTime now) {
  uplink_.tell(heartbeat(0, 0, now));
}

void Vitals::tell_usage(const InitReport& usage, MonoTime now) {
  double cpu = 0;
  const auto passed = static_cast<double>((now - last_usage_at_).count());
  if (last_usage_at_.millis != 0 && passed > 0 && usage.cpu_millis >= last_cpu_millis_) {
    cpu = 100.0 * static_cast<double>(usage.cpu_millis - last_cpu_millis_) / passed;
  }
  last_cpu_millis_ = usage.cpu_millis;
  last_usage_at_ = now;
  uplink_.tell(heartbeat(usage.rss_bytes, cpu, now));
}

void Vitals::tell_progress(WallTime now) {
  const auto newest = progress_.poll();
  if (!newest) {
    return;
  }
  json::object metrics;
  for (const Metric& metric : newest->metrics) {
    metrics[metric.name] = metric.value;
  }
  uplink_.tell({{"type", "progress"},
                {"step", newest->step},
                {"total", newest->total},
                {"metrics", std::move(metrics)},
                {"at_ms", now.millis}});
}

}  // namespace quad::runner
