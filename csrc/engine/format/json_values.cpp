// Values of JSON, each held to its kind.

#include "engine/format/error.h"
#include "engine/format/json.h"

namespace micronet::engine {

std::string_view JsonRef::text_at(uint32_t at) const {
  const auto& text = json_->values_[at].text;
  return std::string_view(json_->texts_).substr(text.first, text.size);
}

bool JsonRef::boolean(const std::string& what) const {
  require(kind() == Json::kBool, what + " must be true or false");
  return value().whole != 0;
}

int64_t JsonRef::whole(const std::string& what, int64_t least, int64_t most) const {
  require(kind() == Json::kWhole, what + " must be a whole number");
  const int64_t found = value().whole;
  require(least <= found && found <= most, what + " is " + std::to_string(found) +
                                               ", but must be " + std::to_string(least) + " to " +
                                               std::to_string(most));
  return found;
}

double JsonRef::real(const std::string& what) const {
  if (kind() == Json::kWhole) return static_cast<double>(value().whole);
  require(kind() == Json::kReal, what + " must be a number");
  return value().real;
}

std::string_view JsonRef::text(const std::string& what) const {
  require(kind() == Json::kText, what + " must be text");
  return text_at(at_);
}

std::vector<JsonRef> JsonRef::items(const std::string& what) const {
  require(kind() == Json::kArray, what + " must be a list");
  std::vector<JsonRef> found;
  for (uint32_t at = at_ + 1; at < value().end; at = json_->values_[at].end) {
    found.push_back({json_, at});
  }
  return found;
}

std::vector<std::pair<std::string_view, JsonRef>> JsonRef::members(const std::string& what) const {
  require(kind() == Json::kObject, what + " must be an object");
  std::vector<std::pair<std::string_view, JsonRef>> found;
  for (uint32_t at = at_ + 1; at < value().end; at = json_->values_[at + 1].end) {
    found.push_back({text_at(at), {json_, at + 1}});
  }
  return found;
}

const JsonRef* Fields::find(std::string_view key) {
  for (size_t i = 0; i < members_.size(); ++i) {
    if (members_[i].first != key) continue;
    used_[i] = true;
    return members_[i].second.is_null() ? nullptr : &members_[i].second;
  }
  return nullptr;
}

JsonRef Fields::get(std::string_view key) {
  const JsonRef* found = find(key);
  require(found != nullptr, what_ + ": the key '" + std::string(key) + "' is missing");
  return *found;
}

bool Fields::flag(std::string_view key) {
  const JsonRef* found = find(key);
  return found != nullptr && found->boolean(of(key));
}

std::vector<float> floats(JsonRef array, const std::string& what) {
  std::vector<float> found;
  for (const JsonRef& item : array.items(what)) {
    found.push_back(static_cast<float>(item.real(what)));
  }
  return found;
}

std::vector<int64_t> wholes(JsonRef array, const std::string& what, int64_t least, int64_t most) {
  std::vector<int64_t> found;
  for (const JsonRef& item : array.items(what)) found.push_back(item.whole(what, least, most));
  return found;
}

std::vector<int64_t> Fields::wholes(std::string_view key, int64_t least, int64_t most) {
  return engine::wholes(get(key), of(key), least, most);
}

void Fields::finish() const {
  for (size_t i = 0; i < members_.size(); ++i) {
    require(used_[i], what_ + ": the key '" + std::string(members_[i].first) + "' is unknown");
  }
}

}  // namespace micronet::engine
