// SHA-256. Source: FIPS 180-4.
#ifndef MICRONET_ENGINE_FORMAT_SHA256_H_
#define MICRONET_ENGINE_FORMAT_SHA256_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace micronet::engine {

// A way to add blocks of 64 bytes to a state [8].
struct Sha256Way {
  const char* name;
  void (*add)(uint32_t* state, const uint8_t* blocks, size_t count);
};

// What this machine runs, the fastest last. All give the same digest.
std::span<const Sha256Way> sha256_ways();

// The digest in hexadecimal, small letters.
std::string sha256(std::span<const uint8_t> data, const Sha256Way& way = sha256_ways().back());

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_FORMAT_SHA256_H_
