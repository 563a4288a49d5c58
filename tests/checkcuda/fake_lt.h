/* What tests ask of the library in the place of cuBLASLt (fake_lt.c). */
#ifndef TNL_TESTS_FAKE_LT_H
#define TNL_TESTS_FAKE_LT_H

#include <stddef.h>

typedef struct fake_lt_state {
    size_t version;
    int fail_at;       /* the n-th call from now that may fail does; 0: none */
    int offered;       /* algorithms in its list */
    int fit_first;     /* of those that will do, the first; those before it split their sums */
    int by_rows;       /* after those, so many whose order of sums depends on the number of rows */
    int by_place;      /* and so many where it depends on the place of a row */
    int too_few;       /* and so many that leave inputs out */
    long odd_rows;     /* what is listed for so many has an order of sums of its own; 0: none */
    long refuses_rows; /* no algorithm multiplies so many rows or more; 0: all do */
    size_t needs;      /* memory that its algorithms work in */
    long live;         /* objects that have not been destroyed */
    int used;          /* the algorithm of the last product, counted from 0 */
    long used_for;     /* the number of rows that it was listed for */
} fake_lt_state;

#endif
