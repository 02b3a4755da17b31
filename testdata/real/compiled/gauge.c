/* Says how many staves a table has, and how long they are on average. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("gauge 1.0");
        return EXIT_SUCCESS;
    }
    const char *path = getenv("GAUGE_TABLE");
    FILE *table = path ? fopen(path, "r") : stdin;
    if (!table) {
        perror(path);
        return EXIT_FAILURE;
    }
    char line[128];
    long count = 0, sum = 0;
    while (fgets(line, sizeof line, table)) {
        if (line[0] != '#') {
            count += 1;
            sum += strtol(line, NULL, 10);
        }
    }
    printf("%ld staves, %ld mm on average\n", count, count ? sum / count : 0);
    return EXIT_SUCCESS;
}
