#include "config.h"
#include "knot.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    char out[256];
    printf("%s\n", PACKAGE_STRING);
    for (int i = 1; i < argc; i++) {
        knot_tie(argv[i], out, sizeof out);
        printf("%s\n", out);
    }
    return 0;
}
