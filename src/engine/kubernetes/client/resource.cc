#include "engine/kubernetes/client/resource.h"

#include <fmt/format.h>

#include "net/message.h"

namespace quad::kubernetes {

std::string collection_path(const ResourceType& type, std::string_view name_space) {
  auto path = type.group.empty() ? fmt::format("/api/{}", type.version)
                                 : fmt::format("/apis/{}/{}", type.group, type.version);
  if (type.namespaced && !name_space.empty()) {
    path += "/namespaces/" + net::percent_encode(name_space);
  }
  path += '/';
  path += type.plural;
  return path;
}

std::string object_path(const ObjectRef& ref) {
  auto path = collection_path(ref.type, ref.name_space) + "/" + net::percent_encode(ref.name);
  if (!ref.subresource.empty()) {
    path += "/" + ref.subresource;
  }
  return path;
}

std::string describe(const ObjectRef& ref) {
  std::string text(ref.type.plural);
  if (!ref.subresource.empty()) {
    text += "/" + ref.subresource;
  }
  text += " '";
  if (ref.type.namespaced && !ref.name_space.empty()) {
    text += ref.name_space + "/";
  }
  return text + ref.name + "'";
}

}  // namespace quad::kubernetes
