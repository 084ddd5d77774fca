/* A PKCS#11 module that stands in front of another, TARGET, and claims to be of library version MAJOR.MINOR,
 * and with CRYPTOKI_MINOR to implement Cryptoki 2.CRYPTOKI_MINOR.
 *
 * PKCS#11 v2.40 (base) sections 3.1 (CK_INFO) and 3.6 (a function list is a version and the functions of section 5).
 */

#include <dlfcn.h>
#include <stdlib.h>

enum { GET_INFO = 2, FUNCTIONS = 68 };

struct function_list {
    unsigned char version[2];
    void *call[FUNCTIONS];
};

struct info {
    unsigned char cryptoki_version[2];
    char manufacturer[32];
    unsigned long flags;
    char description[32];
    unsigned char library_version[2];
};

static struct function_list ours, *target;

static unsigned long get_info(struct info *info)
{
    unsigned long status = ((unsigned long (*)(struct info *))target->call[GET_INFO])(info);
    info->library_version[0] = MAJOR;
    info->library_version[1] = MINOR;
    return status;
}

unsigned long C_GetFunctionList(struct function_list **list)
{
    void *module = dlopen(TARGET, RTLD_NOW);
    unsigned long (*get_function_list)(struct function_list **) =
        module ? (unsigned long (*)(struct function_list **))dlsym(module, "C_GetFunctionList") : NULL;
    if (!get_function_list)
        abort();
    unsigned long status = get_function_list(&target);
    ours = *target;
#ifdef CRYPTOKI_MINOR
    ours.version[1] = CRYPTOKI_MINOR;
#endif
    ours.call[GET_INFO] = (void *)get_info;
    *list = &ours;
    return status;
}
