// Boxes between signals, whose memory follows from their shapes.
#ifndef MICRONET_ENGINE_STEPS_BOXES_H_
#define MICRONET_ENGINE_STEPS_BOXES_H_

#include "engine/steps/step.h"

namespace micronet::engine {

// Elements from one entry of an axis to the next: channels last where there are three axes.
Sizes strides_of(const Sizes& shape);
Sizes row_strides(const Sizes& shape);

// A signal of one shape between two orders of memory.
Box whole_box(const Sizes& shape, const Sizes& from_strides, const Sizes& to_strides);
// A slice node, from a signal of a shape to its part.
Box slice_box(const Node& node, const Sizes& from, const Sizes& to);
// A pad node, likewise.
Box pad_box(const Node& node, const Sizes& from, const Sizes& to);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_STEPS_BOXES_H_
