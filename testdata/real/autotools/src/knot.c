#include "knot.h"

#include <string.h>

size_t knot_tie(const char *text, char *out, size_t size)
{
    size_t length = strlen(text);
    if (size == 0)
        return 0;
    if (length > size - 1)
        length = size - 1;
    for (size_t i = 0; i < length; i++)
        out[i] = text[length - 1 - i];
    out[length] = '\0';
    return length;
}
