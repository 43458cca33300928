// Whether a graph can be computed: shapes and levels of what goes along its edges.
#ifndef MICRONET_ENGINE_GRAPH_GRAPH_H_
#define MICRONET_ENGINE_GRAPH_GRAPH_H_

#include <string>
#include <vector>

#include "engine/format/document.h"
#include "include/conv.h"

namespace micronet::engine {

// What a node gives for one image: values, or codes where there are levels.
struct Signal {
  Sizes shape;
  int levels = 0;
  bool is_grey = false;  // of pixels, whose border is no code of 0

  int64_t numel() const;
};

// By node. Raises Refused where a node cannot take what it reads, a node, layer or name is read by
// none or twice, or a sum of integers does not fit 32 bits.
std::vector<Signal> signals_of(const Document& document);

// A layer over a signal as the core's launchers want it; `images` is 1.
ConvShape conv_shape(const Layer& layer, const Sizes& input, const Sizes& output);

// "nodes[3] (conv)".
std::string title_of(const Document& document, int index);

std::string text_of(const Sizes& shape);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_GRAPH_GRAPH_H_
