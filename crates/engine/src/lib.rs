mod cpu;
