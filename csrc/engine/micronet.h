/* Runs packed networks without Python or torch: the same bits on every machine. See docs/engine.md.

   Functions that may fail return 0, or a handle, where they did not; then `error` holds one
   sentence, cut to `error_size` bytes with its end. An engine is used by one thread at a time; two
   engines are independent. A process that is forked later may use it too, and starts threads of
   its own. What stands here stays as it is while MICRONET_API_VERSION does. */
#ifndef MICRONET_H_
#define MICRONET_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MICRONET_API_VERSION 1

#if defined(__GNUC__)
#define MICRONET_EXPORT __attribute__((visibility("default")))
#else
#define MICRONET_EXPORT
#endif

typedef struct micronet_engine micronet_engine;

/* MICRONET_API_VERSION of the library that is linked. */
MICRONET_EXPORT int micronet_api_version(void);

/* Opens a packed file, or the `model.safetensors` of a folder, checks all of it and lays its
   weights out. `threads` is 1 to 256; the caller's is one of them. Null where it failed. */
MICRONET_EXPORT micronet_engine* micronet_open(const char* path, int threads, char* error,
                                               size_t error_size);

/* As above, of a file in memory, which is not needed afterwards. */
MICRONET_EXPORT micronet_engine* micronet_open_bytes(const void* bytes, size_t size, int threads,
                                                     char* error, size_t error_size);

/* Null is no engine, and closing it does nothing. */
MICRONET_EXPORT void micronet_close(micronet_engine* engine);

/* The shape of one image: channels, height, width. */
MICRONET_EXPORT void micronet_input_shape(const micronet_engine* engine, int64_t shape[3]);

/* The shape of the output of one image; returns its number of axes, 1 to 4. */
MICRONET_EXPORT int micronet_output_shape(const micronet_engine* engine, int64_t shape[4]);

/* Runs a batch: images [batch, C, H, W] and output [batch, ...] are float32, row by row, the
   caller's. Fails where an image, or a value that is to become a code, is not finite. A batch of
   another size than the last plans the memory anew; otherwise the engine allocates none but some
   lines of a signal for each thread. */
MICRONET_EXPORT int micronet_run(micronet_engine* engine, const float* images, int64_t batch,
                                 float* output, char* error, size_t error_size);

/* How pixels lie: [batch, C, H, W], or [batch, H, W, C] as images are decoded. */
#define MICRONET_CHANNELS_FIRST 0
#define MICRONET_CHANNELS_LAST 1

/* As above, of bytes as an image has them, which are normalized as the file says, in float32:
   `(byte - 255 mean) / (255 std)`, 255 mean and 255 std rounded first. A layer that reads grey
   values takes them as they are. Fails where the file does not say how pixels are normalized. */
MICRONET_EXPORT int micronet_run_pixels(micronet_engine* engine, const uint8_t* pixels,
                                        int64_t batch, int layout, float* output, char* error,
                                        size_t error_size);

/* A loop of the caller's: calls task(context, begin, end) for parts of [0, count) that cover it
   once, on any threads, at one time or not, and returns when all calls have. Parts of fewer than
   `grain` cost more than they save. */
typedef void (*micronet_task)(void* context, int64_t begin, int64_t end);
typedef void (*micronet_parallel_for)(void* pool, int64_t count, int64_t grain, micronet_task task,
                                      void* context);

/* Runs from now on share their loops by the caller's threads in place of the engine's own; `pool`
   is handed to `loops` as it is. Null takes the engine's own again, which `threads` were started
   for. A run fails where a loop does not cover all parts once. */
MICRONET_EXPORT void micronet_set_parallel_for(micronet_engine* engine, micronet_parallel_for loops,
                                               void* pool);

/* Plans the memory for a batch of 1 to 65536 images, so that the first run of it need not. */
MICRONET_EXPORT int micronet_reserve(micronet_engine* engine, int64_t batch, char* error,
                                     size_t error_size);

/* Bytes for the signals of a batch, without weights. 0 where a batch is not 1 to 65536 images. */
MICRONET_EXPORT int64_t micronet_arena_bytes(const micronet_engine* engine, int64_t batch);

/* How many classes have names, and the name of one, UTF-8, the engine's; null beyond the last. */
MICRONET_EXPORT int64_t micronet_class_count(const micronet_engine* engine);
MICRONET_EXPORT const char* micronet_class_name(const micronet_engine* engine, int64_t index);

/* The mean and deviation that pixels in [0, 1] are normalized by, each one number for each channel.
   Returns 0, or 1 and writes nothing where the file does not say. */
MICRONET_EXPORT int micronet_normalization(const micronet_engine* engine, float* mean, float* std);

/* From now on runs add up the time of each step, of all threads that run it for images of their
   own; steps are one or several nodes. */
MICRONET_EXPORT void micronet_start_profile(micronet_engine* engine);
MICRONET_EXPORT int64_t micronet_step_count(const micronet_engine* engine);
/* The title of a step, the engine's, and its seconds; null beyond the last. */
MICRONET_EXPORT const char* micronet_step(const micronet_engine* engine, int64_t index,
                                          double* seconds);

/* The instruction set whose loops run, of all engines: "baseline", "avx2", ... It is the machine's
   best, or the one that the variable MICRONET_CPU names when the first engine is opened; where
   there is none of that name, none opens. The second chooses one, whatever the variable says, and
   fails, without a change, where the machine has none of that name. */
MICRONET_EXPORT const char* micronet_instruction_set(void);
MICRONET_EXPORT int micronet_choose_instruction_set(const char* name);

#ifdef __cplusplus
}
#endif

#endif /* MICRONET_H_ */
