/* Launches of the emulated device, for its runtime: told of each, kept to be run again. */
#ifndef TNL_TESTS_EMULATED_LAUNCHES_H
#define TNL_TESTS_EMULATED_LAUNCHES_H

#ifdef __cplusplus
extern "C" {
#endif

/* fn is called before a launch runs. */
void emu_before_launches(void (*fn)(void));

/* From here on launches are kept instead of run; until emu_record_end, which hands them over. */
void emu_record(void);
void *emu_record_end(void);
void emu_replay(void *recorded);
void emu_recorded_free(void *recorded); /* NULL allowed */

#ifdef __cplusplus
}
#endif
#endif
