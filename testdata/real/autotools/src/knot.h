#ifndef KNOT_H
#define KNOT_H

#include <stddef.h>

/* Ties `text` backwards into `out`, which has room for `size` bytes; returns the length without the final NUL. */
size_t knot_tie(const char *text, char *out, size_t size);

#endif
