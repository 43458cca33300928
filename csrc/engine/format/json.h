// JSON, strictly as RFC 8259 has it: no repeated key, no number that is none, nothing behind the
// end, and so deep and no deeper. A text of n bytes takes 12 n bytes at most.
#ifndef MICRONET_ENGINE_FORMAT_JSON_H_
#define MICRONET_ENGINE_FORMAT_JSON_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace micronet::engine {

class JsonRef;

// A text that was read: values in the order of the text, each with the place behind its last part.
class Json {
 public:
  enum Kind : uint8_t { kNull, kBool, kWhole, kReal, kText, kArray, kObject };

  // Raises Refused, `what` being the subject of its sentence.
  Json(std::string_view text, const std::string& what);

  JsonRef root() const;

 private:
  friend class JsonRef;
  friend class JsonParser;

  struct Value {
    Kind kind;
    uint32_t end;  // the value behind this one and its parts
    union {
      int64_t whole;
      double real;
      struct {
        uint32_t first, size;
      } text;
    };
  };

  std::vector<Value> values_;
  std::string texts_;  // of all texts, decoded
};

// One value; it lives as long as its Json.
class JsonRef {
 public:
  JsonRef(const Json* json, uint32_t at) : json_(json), at_(at) {}

  Json::Kind kind() const { return value().kind; }
  bool is_null() const { return kind() == Json::kNull; }

  // Each raises Refused where the value is of another kind; `what` is the subject of the sentence.
  bool boolean(const std::string& what) const;
  int64_t whole(const std::string& what, int64_t least, int64_t most) const;
  double real(const std::string& what) const;
  std::string_view text(const std::string& what) const;
  std::vector<JsonRef> items(const std::string& what) const;
  std::vector<std::pair<std::string_view, JsonRef>> members(const std::string& what) const;

 private:
  const Json::Value& value() const { return json_->values_[at_]; }
  std::string_view text_at(uint32_t at) const;

  const Json* json_;
  uint32_t at_;
};

inline JsonRef Json::root() const { return {this, 0}; }

// An object of which every key has to be asked for.
class Fields {
 public:
  Fields(JsonRef object, std::string what)
      : what_(std::move(what)), members_(object.members(what_)), used_(members_.size(), false) {}

  const std::string& what() const { return what_; }
  std::string of(std::string_view key) const { return what_ + ": " + std::string(key); }

  // The value of a key, or null where there is none; a null is as a key that is missing.
  const JsonRef* find(std::string_view key);
  // Raises Refused where there is none.
  JsonRef get(std::string_view key);

  bool flag(std::string_view key);
  std::vector<int64_t> wholes(std::string_view key, int64_t least, int64_t most);

  // Raises Refused where a key was not asked for.
  void finish() const;

 private:
  std::string what_;
  std::vector<std::pair<std::string_view, JsonRef>> members_;
  std::vector<bool> used_;
};

// As float32.
std::vector<float> floats(JsonRef array, const std::string& what);
std::vector<int64_t> wholes(JsonRef array, const std::string& what, int64_t least, int64_t most);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_FORMAT_JSON_H_
