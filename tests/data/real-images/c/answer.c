#include <stdio.h>
#include <unistd.h>

int main(void) {
    printf("42 as %d\n", (int)getuid());
    return 0;
}
