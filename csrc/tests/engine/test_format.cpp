// The container, the document and the tensors: what does not fit is one sentence.

#include "engine/format/weights.h"
#include "engine/run/engine.h"
#include "tests/engine/refusal.h"
#include "tests/engine/sample.h"

namespace micronet::engine {
namespace {

void open(const std::vector<uint8_t>& file) { Engine engine(file); }

void test_digests() {
  const std::string text = "abc", million(1000000, 'a');
  const auto digest = [](const std::string& s) {
    return sha256({reinterpret_cast<const uint8_t*>(s.data()), s.size()});
  };
  // FIPS 180-4, examples.
  CHECK(digest(text) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(digest(million) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

void test_containers(const Sample& s) {
  const std::vector<uint8_t> whole = s.file(), data = s.data();
  const std::string header = s.header();
  open(whole);
  const auto cut = [&](size_t size) {
    return std::vector<uint8_t>(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
  };
  check_refused("7 bytes are no packed network", [&] { open(cut(7)); });
  check_refused("does not fit the file", [&] { open(cut(100)); });
  check_refused("ends behind the file", [&] { open(cut(whole.size() - 1)); });
  std::vector<uint8_t> longer = whole;
  longer.push_back(0);
  check_refused("bytes, but", [&] { open(longer); });
  std::vector<uint8_t> damaged = whole;
  damaged.back() ^= 1;
  check_refused("SHA-256", [&] { open(damaged); });
  check_refused("have no key 'micronet_packed'", [&] { open(Sample::file_of("{}", {})); });
  check_refused("must be an object", [&] { open(Sample::file_of("[]", {})); });
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string changed = header;
    const size_t at = changed.find(from);
    CHECK(at != changed.npos);
    return Sample::file_of(changed.replace(at, from.size(), to), data);
  };
  check_refused("but must have F32 or U8", [&] { open(replaced("\"F32\"", "\"F16\"")); });
  check_refused("begins at byte", [&] { open(replaced("[0,16]", "[4,20]")); });
  check_refused("other bytes than its offsets",
                [&] { open(replaced("\"shape\":[4]", "\"shape\":[5]")); });
  check_refused("one dimension", [&] { open(replaced("\"shape\":[4]", "\"shape\":[2,2]")); });
  check_refused("is missing", [&] { open(replaced("\"dtype\":\"F32\",", "")); });
  check_refused("no offsets", [&] { open(replaced("[0,16]", "[16,0]")); });
  check_refused("must be 0 to", [&] { open(replaced("[0,16]", "[-1,16]")); });
}

// A change of the document's text, and what it is refused with.
struct Change {
  const char *from, *to, *sentence;
};

constexpr Change kChanges[] = {
    {"\"version\":1", "\"version\":2", "has version 2, this program reads 1"},
    {"micronet-packed", "other", "format is 'other'"},
    {"\"output\":19", "\"output\":20", "output is 20, but must be 0 to 19"},
    {"\"output\":19", "\"output\":18", "nodes[19] (activation) is read by none"},
    {"\"input\":[3,6,5]", "\"input\":[3,6]", "input must be three sizes"},
    {"\"input\":[3,6,5]", "\"input\":[2,6,5]", "layer 'a' does not take a signal of [2, 6, 5]"},
    {"\"input\":[3,6,5]", "\"input\":[3,7,5]", "differ behind their first axis"},
    {"{\"about\"", "{\"more\":1,\"about\"", "the key 'more' is unknown"},
    {"\"kind\":\"quantize\"", "\"kind\":\"round\"", "is of no kind that version 1 has: 'round'"},
    {"{\"kind\":\"input\"}", "{\"kind\":\"relu\"}", "of no kind"},
    {"\"inputs\":[0],\"kind\":\"quantize\"", "\"inputs\":[1],\"kind\":\"quantize\"", "inputs is 1"},
    {"\"inputs\":[10,11]", "\"inputs\":[10]", "reads 1 nodes, but must read 2"},
    {"\"layer\":\"d\"", "\"layer\":\"e\"", "calls layer 'e', which there is not"},
    {"\"function\":\"relu\"", "\"function\":\"mean\"", "function is 'mean', which it cannot be"},
    {"\"exact\":true,\"function\":\"relu\"", "\"exact\":false,\"function\":\"relu\"",
     "is exact on every"},
    {"\"levels\":16,\"name\":\"t\"", "\"levels\":257,\"name\":\"t\"", "levels is 257"},
    {"\"kind\":\"table\"", "\"kind\":\"quantize\"", "reads codes, which only a table"},
    {"\"levels\":16,\"name\":\"t\"", "\"levels\":16,\"name\":\"q\"",
     "two quantizers are named 'q'"},
    {"\"packing\":[3,7]", "\"packing\":[2,5]", "packing is none that codes of 5 levels have"},
    {"\"values\":36", "\"values\":33", "tensor 'a.weight_packed' has"},
    {"\"values\":36", "\"values\":109", "values is 109, but must be 0 to 108"},
    {"\"values\":144", "\"values\":143", "it has no mask"},
    {"\"block\":[2,9]", "\"block\":[3,9]", "is none that is stored"},
    {"\"block\":[2,9]", "\"block\":[2,1]", "tensor 'b.weight_mask' has 1 bytes, but must have"},
    {"\"block\":[2,9],", "", "and no other layout, has a block"},
    {"\"groups\":4", "\"groups\":3", "groups is 3, which does not divide 4 outputs"},
    {"\"groups\":4", "\"groups\":2", "layer 'b' does not take a signal"},
    {"\"sums\":\"scaled\"", "\"sums\":\"integer\"", "layer 'd' sums integers, but reads none"},
    {"\"sums\":\"scaled\"", "\"sums\":\"double\"", "sums is 'double'"},
    {"\"norm_scale\":true,", "", "tensor 'c.norm_scale' is read by nothing"},
    {"\"levels\":5,\"packing\":[1,3],", "", "its weights are floats, but its sums are not"},
    {"\"shape\":[3,48]", "\"shape\":[3000000,48000]", "is of too many weights"},
    {"\"shape\":[3,48]", "\"shape\":[44739242,48]", "values is not the number of its weights"},
    {"\"stride\":[1,1],\"sums\":\"float\"", "\"stride\":[0,1],\"sums\":\"float\"", "stride is 0"},
    {"\"padding\":[0,0]", "\"padding\":[2,0]", "more than half of its kernel"},
    {"\"kernel\":[2,2]", "\"kernel\":[9,9]", "would have the shape [8, 0, 0]"},
    {"\"stop\":[4,6,5]", "\"stop\":[5,6,5]", "a part is outside"},
    {"\"before\":[1,0,0]", "\"before\":[1,0]", "before and after have not the axes"},
    {"\"shape\":[48]", "\"shape\":[47]", "[47] is no shape of the values it reads"},
    {"\"bias\":true,\"layout\"", "\"bias\":1,\"layout\"", "bias must be true or false"},
};

void test_documents(const Sample& s) {
  for (const Change& change : kChanges) {
    Sample changed = s;
    const size_t at = changed.document.find(change.from);
    CHECK(at != changed.document.npos);
    changed.document.replace(at, std::strlen(change.from), change.to);
    check_refused(change.sentence, [&] { open(changed.file()); });
  }
}

void test_tensors(const Sample& s) {
  const auto with = [&](const std::string& name, const auto& change) {
    Sample changed = s;
    change(&changed.tensors.at(name).bytes);
    return changed.file();
  };
  using Bytes = std::vector<uint8_t>;
  const auto floats = [](float value) {
    return [value](Bytes* bytes) { std::memcpy(bytes->data(), &value, 4); };
  };
  const auto byte = [](uint8_t value) { return [value](Bytes* bytes) { bytes->back() = value; }; };
  check_refused("'c.weight' has a value that is not finite",
                [&] { open(with("c.weight", floats(NAN))); });
  check_refused("'q_scale' is not positive", [&] { open(with("q_scale", floats(-0.0f))); });
  check_refused("a bit behind the last", [&] { open(with("q_zero_point", byte(0x82))); });
  check_refused("has the code 7 of 7 levels", [&] { open(with("q_zero_point", byte(7))); });
  check_refused("its mask does not keep 18 weights", [&] { open(with("b.weight_mask", byte(3))); });
  check_refused("its mask does not keep 18 weights", [&] { open(with("b.weight_mask", byte(0))); });
  check_refused("has the code",
                [&] { open(with("a.weight_packed", [](Bytes* b) { (*b)[0] = 0x7f; })); });
  Sample lacking = s;
  lacking.tensors.erase("d.bias");
  check_refused("tensor 'd.bias' is missing", [&] { open(lacking.file()); });
  Sample more = s;
  more.add_floats("more", {1.0f});
  check_refused("tensor 'more' is read by nothing", [&] { open(more.file()); });
}

}  // namespace
}  // namespace micronet::engine

namespace micronet {

void run_tests(std::mt19937& random) {
  const engine::Sample s = engine::sample(random);
  engine::test_digests();
  engine::test_containers(s);
  engine::test_documents(s);
  engine::test_tensors(s);
}

}  // namespace micronet
