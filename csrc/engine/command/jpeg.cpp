// JPEG files, where the command is built with libjpeg.

#include "engine/command/picture.h"

#ifdef MICRONET_JPEG

#include <csetjmp>
#include <cstdio>
// It wants what stdio has.
#include <jpeglib.h>

namespace {

// What libjpeg says of a file, in place of ending the program. Warnings are of damage too: what is
// missing would be gray.
struct Complaint {
  jpeg_error_mgr manager;
  std::jmp_buf back;
  char text[JMSG_LENGTH_MAX];

  static void raise(j_common_ptr info) {
    auto* self = reinterpret_cast<Complaint*>(info->err);
    info->err->format_message(info, self->text);
    std::longjmp(self->back, 1);
  }
  static void emit(j_common_ptr info, int level) {
    if (level < 0) raise(info);
  }
};

// Sizes and colors of a file, then its rows. What is thrown must not pass libjpeg, and a jump must
// not pass what has a destructor: this one has none.
struct Decoder {
  jpeg_decompress_struct info;
  Complaint complaint;
  const char* problem = nullptr;
  bool is_begun = false;

  explicit Decoder(std::string_view content) {
    info.err = jpeg_std_error(&complaint.manager);
    complaint.manager.error_exit = Complaint::raise;
    complaint.manager.emit_message = Complaint::emit;
    if (setjmp(complaint.back) != 0) {
      problem = complaint.text;
      return;
    }
    jpeg_create_decompress(&info);
    is_begun = true;
    jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(content.data()), content.size());
    jpeg_read_header(&info, TRUE);
  }

  void read(J_COLOR_SPACE colors, uint8_t* pixels, size_t row_bytes) {
    if (setjmp(complaint.back) != 0) {
      problem = complaint.text;
      return;
    }
    info.out_color_space = colors;
    jpeg_start_decompress(&info);
    while (info.output_scanline < info.output_height) {
      JSAMPROW row = pixels + info.output_scanline * row_bytes;
      jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_finish_decompress(&info);
  }

  void end() {
    if (is_begun) jpeg_destroy_decompress(&info);
    is_begun = false;
  }
};

[[noreturn]] void refuse(Decoder* decoder, const std::string& path, const std::string& why) {
  decoder->end();
  fail_of(path, why);
}

}  // namespace

Picture decode_jpeg(const std::string& path, std::string_view content, const Wanted& wanted) {
  Decoder decoder(content);
  const auto check = [&] {
    if (decoder.problem != nullptr) {
      refuse(&decoder, path, std::string("cannot be decoded: ") + decoder.problem);
    }
  };
  check();
  const bool is_grey = decoder.info.jpeg_color_space == JCS_GRAYSCALE;
  if (decoder.info.num_components != (is_grey ? 1 : 3)) {
    refuse(&decoder, path, "has other colors than red, green and blue");
  }
  if (wanted.channels != 3 && !(is_grey && wanted.channels == 1)) {
    refuse(&decoder, path,
           "has " + std::to_string(decoder.info.num_components) +
               " channels, but the network takes " + std::to_string(wanted.channels));
  }
  const int64_t width = decoder.info.image_width, height = decoder.info.image_height;
  if (width != wanted.width || height != wanted.height) {
    decoder.end();
    check_size(path, wanted, width, height);
  }
  Picture picture{std::vector<uint8_t>(static_cast<size_t>(wanted.numel())), {}};
  decoder.read(wanted.channels == 1 ? JCS_GRAYSCALE : JCS_RGB, picture.pixels.data(),
               static_cast<size_t>(width * wanted.channels));
  check();
  decoder.end();
  return picture;
}

#else

Picture decode_jpeg(const std::string& path, std::string_view, const Wanted&) {
  fail_of(path, "is a JPEG file, but this command was built without libjpeg");
}

#endif
