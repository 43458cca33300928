// JSON as a flat list of values.

#include "engine/format/json.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "engine/format/error.h"

namespace micronet::engine {

// One pass over the text; `at_` is the next byte.
class JsonParser {
 public:
  JsonParser(std::string_view text, const std::string& what, Json* into)
      : text_(text), what_(what), to_(*into) {
    // Places are 32 bits; a decoded text is no longer than what stands for it.
    if (text.size() >= std::numeric_limits<uint32_t>::max()) fail("it is too long");
  }

  void parse() {
    value(0);
    blanks();
    if (at_ != text_.size()) fail("something is behind its end");
  }

 private:
  static constexpr int kMostDepth = 32;

  [[noreturn]] void fail(const char* why) const {
    refuse(what_ + " is damaged: at byte " + std::to_string(at_) + " of its JSON, " + why);
  }

  bool is_next(char c) const { return at_ < text_.size() && text_[at_] == c; }

  bool take(char c) {
    if (!is_next(c)) return false;
    ++at_;
    return true;
  }

  void want(char c) {
    if (!take(c)) fail((std::string("a '") + c + "' is missing").c_str());
  }

  void blanks() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != text_.npos) ++at_;
  }

  uint32_t count() const { return static_cast<uint32_t>(to_.values_.size()); }

  void value(int depth) {
    if (depth > kMostDepth) fail("it is nested too deep");
    blanks();
    const uint32_t index = count();
    to_.values_.push_back({Json::kNull, 0, {0}});
    if (is_next('{')) {
      object(index, depth);
    } else if (is_next('[')) {
      array(index, depth);
    } else if (is_next('"')) {
      to_.values_[index] = text();
    } else if (!word(index)) {
      number(index);
    }
    to_.values_[index].end = count();
  }

  bool word(uint32_t index) {
    constexpr std::pair<std::string_view, int> kWords[] = {{"null", -1}, {"false", 0}, {"true", 1}};
    for (const auto& [name, meaning] : kWords) {
      if (text_.substr(at_, name.size()) != name) continue;
      at_ += name.size();
      to_.values_[index].kind = meaning < 0 ? Json::kNull : Json::kBool;
      to_.values_[index].whole = meaning;
      return true;
    }
    return false;
  }

  void array(uint32_t index, int depth) {
    to_.values_[index].kind = Json::kArray;
    want('[');
    blanks();
    if (take(']')) return;
    do {
      value(depth + 1);
      blanks();
    } while (take(','));
    want(']');
  }

  void object(uint32_t index, int depth) {
    to_.values_[index].kind = Json::kObject;
    want('{');
    blanks();
    if (take('}')) return;
    do {
      blanks();
      if (!is_next('"')) fail("a key is missing");
      const uint32_t key = count();
      to_.values_.push_back(text());
      to_.values_[key].end = key + 1;
      blanks();
      want(':');
      value(depth + 1);
      blanks();
    } while (take(','));
    want('}');
    check_keys(index);
  }

  std::string_view text_of(uint32_t at) const {
    const auto& text = to_.values_[at].text;
    return std::string_view(to_.texts_).substr(text.first, text.size);
  }

  // Of two values of one key, two readers may take two.
  void check_keys(uint32_t index) const {
    std::vector<std::string_view> keys;
    for (uint32_t at = index + 1; at < count(); at = to_.values_[at + 1].end) {
      keys.push_back(text_of(at));
    }
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end())
      fail(("an object has the key '" + std::string(*twice) + "' twice").c_str());
  }

  size_t digits() {
    const size_t first = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    if (at_ == first) fail("no value of JSON stands here");
    return at_ - first;
  }

  void number(uint32_t index) {
    const size_t first = at_;
    take('-');
    const bool leading = is_next('0');
    if (digits() > 1 && leading) fail("a number begins with 0");
    bool is_whole = true;
    if (take('.')) is_whole = false, digits();
    if (take('e') || take('E')) {
      is_whole = false;
      if (!take('-')) take('+');
      digits();
    }
    Json::Value& value = to_.values_[index];
    const char *from = text_.data() + first, *to = text_.data() + at_;
    value.kind = is_whole ? Json::kWhole : Json::kReal;
    const std::from_chars_result read =
        is_whole ? std::from_chars(from, to, value.whole) : std::from_chars(from, to, value.real);
    if (read.ec != std::errc() || read.ptr != to) fail("a number is too large");
  }

  Json::Value text() {
    want('"');
    const size_t first = to_.texts_.size();
    while (!take('"')) {
      if (at_ == text_.size()) fail("a text has no end");
      const char c = text_[at_++];
      if (static_cast<unsigned char>(c) < 0x20) fail("a text has a control character");
      if (c == '\\') {
        escape();
      } else {
        to_.texts_.push_back(c);
      }
    }
    Json::Value value{Json::kText, 0, {0}};
    value.text = {static_cast<uint32_t>(first), static_cast<uint32_t>(to_.texts_.size() - first)};
    return value;
  }

  void escape() {
    constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    if (take('u')) return append(code_point());
    const size_t which = at_ < text_.size() ? kNames.find(text_[at_]) : kNames.npos;
    if (which == kNames.npos) fail("an escape is unknown");
    ++at_;
    to_.texts_.push_back(kMeanings[which]);
  }

  uint32_t four_digits() {
    uint32_t unit = 0;
    const std::string_view four = text_.substr(at_, 4);
    const auto read = std::from_chars(four.data(), four.data() + four.size(), unit, 16);
    if (four.size() < 4 || read.ptr != four.data() + 4) fail("an escape has no four digits");
    at_ += 4;
    return unit;
  }

  // Two units of UTF-16 where the first says so.
  uint32_t code_point() {
    const uint32_t high = four_digits();
    if (high < 0xd800 || high > 0xdfff) return high;
    const bool paired = high < 0xdc00 && text_.substr(at_, 2) == "\\u";
    if (!paired) fail("half a character is missing");
    at_ += 2;
    const uint32_t low = four_digits();
    if (low < 0xdc00 || low > 0xdfff) fail("half a character is missing");
    return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
  }

  void append(uint32_t code) {
    const auto put = [&](uint32_t byte) { to_.texts_.push_back(static_cast<char>(byte)); };
    if (code < 0x80) return put(code);
    if (code < 0x800) {
      put(0xc0 | code >> 6);
    } else {
      if (code < 0x10000) {
        put(0xe0 | code >> 12);
      } else {
        put(0xf0 | code >> 18);
        put(0x80 | (code >> 12 & 63));
      }
      put(0x80 | (code >> 6 & 63));
    }
    put(0x80 | (code & 63));
  }

  std::string_view text_;
  const std::string& what_;
  Json& to_;
  size_t at_ = 0;
};

Json::Json(std::string_view text, const std::string& what) { JsonParser(text, what, this).parse(); }

}  // namespace micronet::engine
