// The JSON reader: what RFC 8259 has, and nothing else.

#include "engine/format/json.h"
#include "tests/engine/refusal.h"

namespace micronet::engine {
namespace {

void test_values() {
  const Json json(R"( {"a": [1, -2, 0, 9223372036854775807], "b": {"c": 1.5e1, "d": null},
      "e": "\u00e9\ud83d\ude00\n\"\\\/", "f": true, "g": []} )",
                  "text");
  Fields fields(json.root(), "text");
  CHECK(fields.wholes("a", -2, INT64_MAX) == (std::vector<int64_t>{1, -2, 0, INT64_MAX}));
  Fields inner(fields.get("b"), "b");
  CHECK(inner.get("c").real("c") == 15.0 && inner.find("d") == nullptr);
  inner.finish();
  CHECK(fields.get("e").text("e") == "\xc3\xa9\xf0\x9f\x98\x80\n\"\\/");
  CHECK(fields.flag("f") && !fields.flag("h"));
  CHECK(fields.wholes("g", 0, 0).empty());
  fields.finish();
}

void test_what_is_none() {
  const std::string deep(40, '[');
  for (const std::string text : {"",
                                 "{",
                                 "[1,]",
                                 "{\"a\":1,}",
                                 "{\"a\"}",
                                 "{a:1}",
                                 "01",
                                 "-",
                                 "1.",
                                 ".5",
                                 "1e",
                                 "+1",
                                 "nul",
                                 "tru",
                                 "NaN",
                                 "Infinity",
                                 "\"",
                                 "\"\\x\"",
                                 "\"\\u12\"",
                                 "\"\\ud800\"",
                                 "\"\\ud800\\u0041\"",
                                 "\"\n\"",
                                 "[1] 2",
                                 "{\"a\":1,\"a\":2}",
                                 "9223372036854775808",
                                 "1e999",
                                 "[1 2]",
                                 "]",
                                 deep.c_str()}) {
    check_refused("text is damaged", [&] { Json(text, "text"); });
  }
}

void test_kinds() {
  const Json json("{\"a\":1,\"b\":\"x\",\"c\":[1.5],\"d\":300}", "text");
  const auto fields = [&] { return Fields(json.root(), "text"); };
  check_refused("text: a must be text", [&] { fields().get("a").text("text: a"); });
  check_refused("text: a must be true or false", [&] { fields().flag("a"); });
  check_refused("text: b must be a list", [&] { fields().wholes("b", 0, 9); });
  check_refused("text: c must be a whole number", [&] { fields().wholes("c", 0, 9); });
  check_refused("d is 300, but must be 0 to 9", [&] { fields().get("d").whole("d", 0, 9); });
  check_refused("the key 'e' is missing", [&] { fields().get("e"); });
  check_refused("the key 'a' is unknown", [&] { fields().finish(); });
  check_refused("x must be an object", [&] { Fields(fields().get("a"), "x"); });
}

// Whatever stands in a text, an answer is a value or a sentence.
void test_random_texts(std::mt19937& random) {
  const std::string parts[] = {"{",    "}",    "[",    "]",     ",", ":",    "\"",
                               "\\",   "u",    "d800", "1",     "-", ".",    "e",
                               "null", "true", " ",    "\"a\"", "0", "\x01", "\xff"};
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (unsigned n = random() % 12; n-- > 0;) text += parts[random() % std::size(parts)];
    refusal_of([&] { Json(text, "text").root().items("text"); });
  }
}

}  // namespace
}  // namespace micronet::engine

namespace micronet {

void run_tests(std::mt19937& random) {
  engine::test_values();
  engine::test_what_is_none();
  engine::test_kinds();
  engine::test_random_texts(random);
}

}  // namespace micronet
