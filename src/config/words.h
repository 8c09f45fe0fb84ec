// config/words.h
//
// Which texts may stand where: names, paths, addresses, amounts. Pure, any thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include "base/time.h"
#include "spec/node.h"

namespace quad::config {

bool is_path(std::string_view text);             ///< of a file; never its content, and with no ~
bool is_absolute_folder(std::string_view text);  ///< "/data/hot"; neither "/" nor with ".." in it
bool is_host(std::string_view text);             ///< an address or a host's name, without a port
bool is_loopback(std::string_view host);         ///< reached from this machine only
bool is_web_address(std::string_view text);  ///< http(s)://host[:port], no user, query or fragment
bool is_duration(std::string_view text);     ///< "90s", "30m"
bool is_size(std::string_view text);         ///< "64GB", "64"
bool is_amount(std::string_view text);       ///< "4", "0.5"
bool is_gpus(std::string_view text);         ///< "H100:8", "H100"
bool is_uid_range(std::string_view text);    ///< "2010000000-2010065535", of 1000 and above
bool is_image(std::string_view text);        ///< "registry.example.edu/quad:1.2", no "docker:"
bool is_account(std::string_view text);      ///< the name of one of the machine's accounts
bool is_engine_name(std::string_view text);  ///< what can stand after k8s/ in `infra`
bool is_object_name(std::string_view text);  ///< RFC 1123: the name of a Kubernetes object
bool is_label_name(std::string_view text);   ///< a name, or prefix/name: of labels and resources
bool is_label_value(std::string_view text);
bool is_network_list(std::string_view text);  ///< "train/rail0,train/rail1", or a JSON list

/// The first and last of a range of uids.
std::optional<std::pair<std::uint32_t, std::uint32_t>> uid_range_of(std::string_view text);

// The values that these words, and plain numbers, stand for.

/// A time with its unit, or a number of seconds.
std::optional<Millis> duration_of(const spec::Node& node);
/// A size with its unit, or a number of GB; GB of 10^9 bytes.
std::optional<std::int64_t> bytes_of(const spec::Node& node);
/// Thousandths.
std::optional<std::int64_t> milli_of(const spec::Node& node);

}  // namespace quad::config
