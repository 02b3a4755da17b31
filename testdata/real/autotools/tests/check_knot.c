#include "knot.h"

#include <string.h>

int main(void)
{
    char out[8];
    return knot_tie("stave", out, sizeof out) == 5 && strcmp(out, "evats") == 0 ? 0 : 1;
}
