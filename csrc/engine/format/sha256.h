// SHA-256. Source: FIPS 180-4.
#ifndef MICRONET_ENGINE_FORMAT_SHA256_H_
#define MICRONET_ENGINE_FORMAT_SHA256_H_

#include <cstdint>
#include <span>
#include <string>

namespace micronet::engine {

// The digest in hexadecimal, small letters.
std::string sha256(std::span<const uint8_t> data);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_FORMAT_SHA256_H_
